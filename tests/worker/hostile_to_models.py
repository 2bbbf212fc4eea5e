"""A pipeline that a model has taken over, and that tries to change the model's file for the jobs after it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from caveat_spec.artifacts import Stage
from caveat_spec.audit import Audit
from caveat_spec.report import Report
from tests.worker.stub_pipeline import report

CHANGED = b"taken over"
FALLOC_PUNCH_HOLE, FICLONE = 3, 0x40049409

_libc = ctypes.CDLL(None, use_errno=True)


def look(model: Path) -> None:
    """Attacks nothing: says which file the model is."""
    with model.open("rb") as file:
        raise OSError(f"{os.fstat(file.fileno()).st_ino} {len(file.read())}")


def write(model: Path) -> None:
    model.write_bytes(CHANGED)


def append(model: Path) -> None:
    with model.open("ab") as file:
        file.write(CHANGED)


def truncate(model: Path) -> None:
    os.truncate(model, 0)


def truncate_what_is_open(model: Path) -> None:
    with model.open("rb") as file:
        os.ftruncate(file.fileno(), 0)


def punch_a_hole(model: Path) -> None:
    with model.open("rb") as file:
        _call(_libc.fallocate, file.fileno(), FALLOC_PUNCH_HOLE, ctypes.c_long(0), ctypes.c_long(4096))


def write_through_its_descriptor(model: Path) -> None:
    with model.open("rb") as file:
        os.write(os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR), CHANGED)


def write_through_another_name(model: Path) -> None:
    os.link(model, "mine")
    Path("mine").write_bytes(CHANGED)


def write_through_a_link(model: Path) -> None:
    os.symlink(model, "there")
    Path("there").write_bytes(CHANGED)


def map_to_write(model: Path) -> None:
    with model.open("rb") as file:
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE)[:10] = CHANGED


def write_to_what_is_mapped(model: Path) -> None:
    """Asks for the right to write to pages that were mapped for reading."""
    with model.open("rb") as file:
        _libc.mmap.restype = ctypes.c_void_p
        at = _libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), ctypes.c_long(0))
        _call(_libc.mprotect, ctypes.c_void_p(at), 4096, mmap.PROT_READ | mmap.PROT_WRITE)
        ctypes.memmove(at, CHANGED, len(CHANGED))


def write_as_a_debugger(model: Path) -> None:
    """The kernel lets /proc/self/mem write where a mapping does not."""
    with model.open("rb") as file:
        _libc.mmap.restype = ctypes.c_void_p
        at = _libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), ctypes.c_long(0))
        with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
            memory.seek(at)
            memory.write(CHANGED)


def clone_over(model: Path) -> None:
    Path("other").write_bytes(CHANGED)
    with model.open("rb") as file, Path("other").open("rb") as other:
        fcntl.ioctl(file, FICLONE, other.fileno())


def open_to_all(model: Path) -> None:
    os.chmod(model, 0o777)


def open_to_all_what_is_open(model: Path) -> None:
    with model.open("rb") as file:
        os.fchmod(file.fileno(), 0o777)


def give_away(model: Path) -> None:
    os.chown(model, 65534, 65534)


def touch(model: Path) -> None:
    os.utime(model, (0, 0))


def attach(model: Path) -> None:
    os.setxattr(model, "user.caveat", CHANGED)


def hold_with_a_lease(model: Path) -> None:
    """The next job's open(2) would wait for 45 seconds."""
    with model.open("rb") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)


def rename(model: Path) -> None:
    os.rename(model, "gone")


def rename_over(model: Path) -> None:
    Path("other").write_bytes(CHANGED)
    os.rename("other", model)


def unlink(model: Path) -> None:
    os.unlink(model)


def find_the_others(model: Path) -> None:
    """The folder of all shared models is beside those of jobs."""
    os.listdir(model.parents[2])


KINDS: dict[Callable[[Path], None], str] = {
    write: "EACCES", append: "EACCES", truncate: "EACCES", truncate_what_is_open: "EINVAL", punch_a_hole: "EBADF",
    write_through_its_descriptor: "EACCES", write_through_another_name: "EXDEV", write_through_a_link: "EACCES",
    map_to_write: "EACCES", write_to_what_is_mapped: "EACCES", write_as_a_debugger: "EACCES", clone_over: "EBADF",
    open_to_all: "EPERM", open_to_all_what_is_open: "EPERM", give_away: "EPERM", touch: "EPERM", attach: "EPERM",
    hold_with_a_lease: "EPERM", rename: "EACCES", rename_over: "EACCES", unlink: "EACCES", find_the_others: "EACCES",
}  # fmt: skip
"""Everything that is tried, and the error in which it ends."""
LOOK = len(KINDS)
"""Seed of an audit that only looks."""


def run(
    audit: Audit, blob: Callable[[str], Path], progress: Callable[[Stage, float], None], *, threads: int, store: object
) -> Report:
    attack = [*KINDS, look][audit.method.seed]
    try:
        attack(blob(audit.model))
    except OSError as fault:
        return report(audit, [str(fault) if fault.errno is None else errno.errorcode[fault.errno]])
    return report(audit, [""])


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, errno.errorcode[number])
