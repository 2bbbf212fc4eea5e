"""Disks that are full or fail, told by their true name: whose disk it is, what it answered, and what helps."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from caveat_spec.problem import ProblemDetails

Disk = Literal["blobs", "scratch", "database"]

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FAILING = frozenset({errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESTALE})
ERRNOS = FULL | FAILING
"""What a disk answers that is full, and one that fails; anything else has another cause."""
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
    """A disk is full or fails."""

    def __init__(self, disk: Disk, number: int) -> None:
        """Takes whose disk it is, and the number of the error."""
        self.problem = disk_problem(disk, number)
        super().__init__(number, self.problem.detail)


@contextmanager
def of_disk(disk: Disk) -> Iterator[None]:
    """Raises errors of a disk in this block as a `DiskError`; errors that have their name already stay as they are."""
    try:
        yield
    except DiskError:
        raise
    except OSError as fault:
        if fault.errno not in ERRNOS:
            raise
        raise DiskError(disk, int(fault.errno or 0)) from fault


def disk_problem(disk: Disk, number: int) -> ProblemDetails:
    """The problem of a disk that answers with an error number."""
    if number in FULL:
        return ProblemDetails.of(
            f"{disk}-full",
            507,
            f"The disk of the {NAMES[disk]} is full, so nothing more could be written to it.",
            f"An operator frees space on the disk of {WHERE[disk]} or enlarges it; then try again.",
        )
    name = errno.errorcode.get(number, str(number))
    return ProblemDetails.of(
        f"{disk}-failing",
        503,
        f"The disk of the {NAMES[disk]} answers with an error ({name}).",
        f"An operator looks for the cause at the disk of {WHERE[disk]} (`dmesg`, `mount`); then try again.",
    )
