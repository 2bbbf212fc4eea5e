"""Temporary folders that go with their process, whatever ends it: SIGKILL, the OOM killer, a power cut.

A process holds a lock on a file in each folder that it made, and the kernel releases the lock when the process ends. So
a folder whose lock can be taken is nobody's any more, and whoever finds it deletes it: unlike a process id, a lock
means the same in every container, and unlike an age it is never wrong. Docs/decisions/0108 says what else was weighed.

The lock file has no permission to read, so a job's confined process, which may only read there, cannot hold it. Nothing
is deleted by its path: a job may have put symbolic links anywhere.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none
    HAS_LOCKS = False
else:
    HAS_LOCKS = sys.platform == "linux"

log = logging.getLogger(__name__)

PREFIX = "caveat-tmp-"
NAME = re.compile(PREFIX + "[0-9a-f]{12}")
LOCK = ".lock"
UNLOCKED = ".unlocked"
"""Name of the file in place of the lock where the file system has no locks; such a folder is never an orphan."""
LOCK_MODE = 0o200
MOST_TRIES = 100
LEFT = "%s holds what a job left and cannot be deleted (%s). Delete it by hand once no process uses it."
UNSEARCHED = "%s cannot be searched for what killed processes left (%s)."
NO_LOCKS = "The file system of TMPDIR has no locks, so folders %s* of killed processes stay there (%s)."
ENTERED = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
PINNED = ENTERED | getattr(os, "O_PATH", 0)
"""Flags to open a folder for what is inside, whoever may list it."""
LOCKED = os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)

_searched: set[Path] = set()
_told: set[str] = set()
_held: set[_Lock] = set()


class _Lock:
    """The lock of a folder; a process that was forked from its holder has no part in it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        _held.add(self)

    @property
    def is_held(self) -> bool:
        return self in _held

    def release(self) -> None:
        """Releases the lock, or in a forked process only its copy."""
        if self in _held:
            _held.remove(self)
            os.close(self._descriptor)


def _let_go() -> None:
    for lock in list(_held):
        lock.release()


if HAS_LOCKS:
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def temporary_folder(place: Path | None = None) -> Iterator[Path]:
    """Yields a fresh folder in `place`, TMPDIR by default, that is deleted at the end, or once the process has died.

    The first one of a process deletes orphaned ones beside it. Elsewhere than on Linux it has no lock, and what a
    killed process leaves stays.

    Raises:
        OSError: the folder cannot be made there.
    """
    place = Path(tempfile.gettempdir() if place is None else place).absolute()
    if not HAS_LOCKS:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as name:
            yield Path(name)
        return
    if place not in _searched:
        _searched.add(place)
        delete_orphaned(place)
    with ExitStack() as opened:
        beside = os.open(place, PINNED)
        opened.callback(os.close, beside)
        name, folder, lock = _made(beside)
        opened.callback(os.close, folder)
        opened.callback(lock.release)
        try:
            yield place / name
        finally:
            if lock.is_held and (fault := _delete(name, beside, folder)):
                _warn_once(LEFT, place / name, fault)


def delete_orphaned(place: Path) -> int:
    """Deletes the temporary folders in `place` whose processes have ended, and returns their number.

    Folders of other users are left alone. What cannot be deleted is logged once and tried again at the next call.
    """
    try:
        beside = os.open(place, ENTERED)
    except OSError as fault:
        _warn_once(UNSEARCHED, place, fault)
        return 0
    deleted = 0
    try:
        for name in filter(NAME.fullmatch, os.listdir(beside)):
            try:
                deleted += _delete_if_orphaned(name, beside)
            except FileNotFoundError:  # another process was faster
                continue
            except OSError as fault:
                _warn_once(LEFT, place / name, fault)
    finally:
        os.close(beside)
    if deleted:
        log.info("deleted %d temporary folders of processes that were killed", deleted)
    return deleted


def _made(beside: int) -> tuple[str, int, _Lock]:
    """A fresh folder in the open folder `beside`: its name, its descriptor, its lock."""
    for _ in range(MOST_TRIES):
        name = PREFIX + secrets.token_hex(6)
        try:
            os.mkdir(name, 0o700, dir_fd=beside)
        except FileExistsError:
            continue
        with ExitStack() as undo:
            undo.callback(_remove_empty, name, beside)
            try:
                folder = os.open(name, ENTERED | os.O_NOFOLLOW, dir_fd=beside)
                undo.callback(os.close, folder)
                if lock := _locked(folder):
                    undo.pop_all()
                    return name, folder, lock
            except FileNotFoundError:  # another process took the empty folder for an orphan
                continue
    raise FileExistsError(errno.EEXIST, "no temporary folder could be made")


def _locked(folder: int) -> _Lock | None:
    """The lock of a fresh folder, which is open; None if another process is about to delete the folder."""
    descriptor = os.open(LOCK, LOCKED | os.O_CREAT, LOCK_MODE, dir_fd=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as fault:  # nobody can find out that it is an orphan, so nobody must think so
        os.rename(LOCK, UNLOCKED, src_dir_fd=folder, dst_dir_fd=folder)
        _warn_once(NO_LOCKS, Path(PREFIX), fault)
        return _Lock(descriptor)
    if os.fstat(descriptor).st_nlink == 0:
        os.close(descriptor)
        return None
    return _Lock(descriptor)


def _remove_empty(name: str, beside: int) -> None:
    """Removes a folder that could not be locked, with its lock; whoever has it otherwise removes it as well."""
    with suppress(OSError):
        os.unlink(f"{name}/{LOCK}", dir_fd=beside)
    with suppress(OSError):
        os.rmdir(name, dir_fd=beside)


def _delete_if_orphaned(name: str, beside: int) -> bool:
    """Deletes a folder whose lock can be taken; returns whether it did."""
    folder = _entered(name, beside)
    if folder is None:
        return False
    with ExitStack() as opened:
        opened.callback(os.close, folder)
        try:
            lock = os.open(LOCK, LOCKED, dir_fd=folder)
        except FileNotFoundError:
            return _delete_if_empty(name, beside, folder)
        opened.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if os.fstat(lock).st_nlink == 0:  # its holder has just deleted it
            return False
        fault = _delete(name, beside, folder)
    if fault is None:
        return True
    if fault.errno in (errno.ENOTEMPTY, errno.ENOENT):  # a job outlives its supervisor by a moment, and still writes
        return False
    raise fault


def _delete_if_empty(name: str, beside: int, folder: int) -> bool:
    """Deletes a folder that is about to get its lock, whose process then makes another, or that never will."""
    try:
        os.rmdir(name, dir_fd=beside)
    except OSError as fault:
        left = os.listdir(folder)  # nothing, or the lock, if a process has locked it meanwhile
        if fault.errno == errno.ENOTEMPTY and (not left or LOCK in left or UNLOCKED in left):
            return False
        raise
    return True


def _delete(name: str, beside: int, folder: int) -> OSError | None:
    """Deletes an open folder of which this process has the lock, the lock last; returns what prevented it."""
    faults: list[OSError] = []
    try:
        waiting = [inside for inside in os.listdir(folder) if inside != LOCK]
        while waiting:
            inside = waiting.pop()
            try:
                os.unlink(inside, dir_fd=folder)
            except IsADirectoryError:
                _take_apart(inside, folder, waiting, faults)
            except OSError as fault:
                faults.append(fault)
        if not faults:
            _remove(name, beside, folder)
    except OSError as fault:
        faults.append(fault)
    return faults[0] if faults else None


def _remove(name: str, beside: int, folder: int) -> None:
    """Removes a folder in which only the lock is left; if that fails it has a lock again, or it would stay for good."""
    with suppress(FileNotFoundError):
        os.unlink(LOCK, dir_fd=folder)
    try:
        os.rmdir(name, dir_fd=beside)
    except FileNotFoundError:  # another process found it empty
        return
    except OSError:
        os.close(os.open(LOCK, LOCKED | os.O_CREAT, LOCK_MODE, dir_fd=folder))
        raise


def _take_apart(name: str, folder: int, waiting: list[str], faults: list[OSError]) -> None:
    """Deletes a folder in the open `folder`, and moves the folders in it up there, with their names in `waiting`.

    So no more than two are open, however deep a job has nested them.
    """
    try:
        inside = _entered(name, folder)
        if inside is None:
            raise PermissionError(errno.EPERM, "another user's folder, or another file system")
        try:
            for inner in os.listdir(inside):
                try:
                    os.unlink(inner, dir_fd=inside)
                except IsADirectoryError:
                    _move_up(inner, inside, folder, waiting, faults)
                except OSError as fault:
                    faults.append(fault)
        finally:
            os.close(inside)
        os.rmdir(name, dir_fd=folder)
    except OSError as fault:
        faults.append(fault)


def _move_up(name: str, inside: int, folder: int, waiting: list[str], faults: list[OSError]) -> None:
    """Moves a folder, which needs the right to write to it."""
    try:
        if (entered := _entered(name, inside)) is not None:
            os.close(entered)
        fresh = secrets.token_hex(16)
        os.rename(name, fresh, src_dir_fd=inside, dst_dir_fd=folder)
        waiting.append(fresh)
    except OSError as fault:
        faults.append(fault)


def _entered(name: str, beside: int) -> int | None:
    """A descriptor of a folder of this user, with all rights to it; None if it is none, or on another file system.

    A job may have taken its own rights to it away.
    """
    try:
        pinned = os.open(name, PINNED | os.O_NOFOLLOW, dir_fd=beside)
    except NotADirectoryError:
        return None
    try:
        about = os.fstat(pinned)
        if about.st_uid != os.geteuid() or about.st_dev != os.fstat(beside).st_dev:
            return None
        if about.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{pinned}", stat.S_IRWXU)
        return os.open(".", ENTERED, dir_fd=pinned)
    finally:
        os.close(pinned)


def _warn_once(sentence: str, path: Path, fault: OSError) -> None:
    if str(path) not in _told:
        _told.add(str(path))
        log.warning(sentence, path, os.strerror(fault.errno or 0))
