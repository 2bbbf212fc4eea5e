"""A pipeline that a model has taken over, and that tries to keep its folder from being deleted."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from caveat_spec.artifacts import Stage
from caveat_spec.audit import Audit
from caveat_spec.report import Report
from tests.worker.stub_pipeline import report

LOCK = ".lock"


def hold_to_read(folder: Path) -> None:
    with (folder / LOCK).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)


def hold_to_write(folder: Path) -> None:
    with (folder / LOCK).open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def hold_by_its_path(folder: Path) -> None:
    fcntl.flock(os.open(folder / LOCK, os.O_PATH), fcntl.LOCK_SH)


def hold_by_a_link(folder: Path) -> None:
    os.link(folder / LOCK, "mine")
    fcntl.flock(os.open("mine", os.O_WRONLY), fcntl.LOCK_EX)


def allow_itself(folder: Path) -> None:
    os.chmod(folder / LOCK, 0o666)


def hold_as_its_parent(folder: Path) -> None:
    """By the descriptors of the supervisor, two processes above."""
    supervisor = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]
    for descriptor in Path(f"/proc/{supervisor}/fd").iterdir():
        try:
            fcntl.flock(os.open(descriptor, os.O_RDONLY | os.O_NONBLOCK), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as fault:
            refused = fault
        else:
            return
    raise refused


def delete_the_lock(folder: Path) -> None:
    os.unlink(folder / LOCK)


def move_the_lock(folder: Path) -> None:
    os.rename(folder / LOCK, "gone")


def add_a_file(folder: Path) -> None:
    (folder / "more").touch()


def move_the_folder(folder: Path) -> None:
    os.rename(folder, folder.with_name("gone"))


def bury(folder: Path) -> None:
    """Folders that are deep, and closed to their owner, and links that lead out."""
    os.umask(0)
    for _ in range(1100):
        os.mkdir("deeper")
        os.chdir("deeper")
    os.chdir(folder / "tmp")
    os.symlink(folder.parent / "outside", "link")
    for place in (folder / "tmp" / "closed", folder / "outputs" / "closed"):
        os.mkdir(place)
        os.symlink(folder.parent / "outside", place / "link")
        os.mkdir(place / "inner", 0)
    os.mkfifo("pipe", 0)


KINDS: dict[Callable[[Path], None], str] = {
    hold_to_read: "EACCES", hold_to_write: "EACCES", hold_by_its_path: "EBADF", hold_by_a_link: "EXDEV",
    allow_itself: "EPERM", hold_as_its_parent: "EACCES", delete_the_lock: "EACCES", move_the_lock: "EACCES",
    add_a_file: "EACCES", move_the_folder: "EACCES", bury: "",
}  # fmt: skip
"""Everything that is tried, and the error in which it ends."""


def run(
    audit: Audit, blob: Callable[[str], Path], progress: Callable[[Stage, float], None], *, threads: int, store: object
) -> Report:
    attack = list(KINDS)[audit.method.seed]
    try:
        attack(blob(audit.model).parents[1])
    except OSError as fault:
        return report(audit, [errno.errorcode[fault.errno or 0]])
    return report(audit, [""])
