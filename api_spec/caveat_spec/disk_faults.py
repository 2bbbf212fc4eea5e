"""Disks that are full or fail, told by their true name: whose disk it is, what it answered, and what helps."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from caveat_spec.problem import ProblemDetails

Disk = Literal["blobs", "scratch", "database"]

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FAILING = frozenset({errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESTALE})
DENIED = frozenset({errno.EACCES, errno.EPERM})
ERRNOS = FULL | FAILING | {errno.EFBIG}
"""What a disk answers that is full, one that fails, and one that takes no larger files; the rest has other causes."""
NAMES: dict[Disk, str] = {
    "blobs": "blob store",
    "scratch": "worker's scratch folder",
    "database": "database",
}
WHERE: dict[Disk, str] = {
    "blobs": "CAVEAT_BLOBS_URL",
    "scratch": "the worker's TMPDIR",
    "database": "the database server, or of CAVEAT_DATABASE_URL",
}


class DiskError(OSError):
    """A disk is full or fails, or does not take what is written to it."""

    def __init__(self, disk: Disk, number: int) -> None:
        """Takes whose disk it is, and the number of the error."""
        self.problem = disk_problem(disk, number)
        super().__init__(number, self.problem.detail)


@contextmanager
def of_disk(disk: Disk) -> Iterator[None]:
    """Raises errors of a disk in this block as a `DiskError`; errors that have their name already stay as they are.

    A blob store may deny access as well; elsewhere that has other causes, such as a job's sandbox.
    """
    try:
        yield
    except DiskError:
        raise
    except OSError as fault:
        number = errno.EACCES if isinstance(fault, PermissionError) else fault.errno  # buckets give no number
        if number not in (ERRNOS | DENIED if disk == "blobs" else ERRNOS):
            raise
        raise DiskError(disk, int(number or 0)) from fault


def disk_problem(disk: Disk, number: int) -> ProblemDetails:
    """The problem of a disk that answers with an error number."""
    if number in FULL:
        return ProblemDetails.of(
            f"{disk}-full",
            507,
            f"The disk of the {NAMES[disk]} is full, so nothing more could be written to it.",
            f"An operator frees space on the disk of {WHERE[disk]} or enlarges it; then try again.",
        )
    if number == errno.EFBIG:
        return _too_large(disk)
    name = errno.errorcode.get(number, str(number))
    if number in DENIED:
        return ProblemDetails.of(
            f"{disk}-denied",
            503,
            f"The {NAMES[disk]} denies the service access ({name}).",
            f"An operator looks who may read and write at {WHERE[disk]}: the owner and the modes of the folder, or the "
            "credentials and the policy of the bucket.",
        )
    return ProblemDetails.of(
        f"{disk}-failing",
        503,
        f"The disk of the {NAMES[disk]} answers with an error ({name}).",
        f"An operator looks for the cause at the disk of {WHERE[disk]} (`dmesg`, `mount`); then try again.",
    )


def _too_large(disk: Disk) -> ProblemDetails:
    """The problem of a file that may not grow, although the disk may have room for it."""
    smaller = (
        "Audit fewer layers or examples, or reduce layers with '@mean'; otherwise an" if disk == "scratch" else "An"
    )
    return ProblemDetails.of(
        "file-too-large",
        413,
        f"A file on the disk of the {NAMES[disk]} would be larger than its file system, or a limit of the process, "
        "allows.",
        f"{smaller} operator looks at the limits of {WHERE[disk]} (`ulimit -f`, `df -T`).",
    )
