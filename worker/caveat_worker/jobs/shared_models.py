"""Large models on a worker's scratch disk: one file for all jobs of a tenant that read it, in place of a copy for each.

A model's first job gets a copy, as every job did. Once its bytes are verified the file gets a second name here, and
each later job gets a further name of the same file in its own folder (a hard link). So the bytes are fetched and
written once, and processes that map them share their pages. Every job's supervisor compares the bytes with their digest
again before its child begins.

The kernel does the rest. A name is there or not, so a crash leaves no half file. A file stays as long as it has a name,
so evicting one takes it from no job. And a child cannot change it: the file is read-only, its folder as well for
Landlock, and the filter of system calls refuses changes of modes. Where one of these is missing, nothing is shared.
"""

from __future__ import annotations

import fcntl
import hmac
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from caveat_storage.blobs import digest_of
from caveat_worker.jobs.sandbox import missing_protections

log = logging.getLogger(__name__)

LEAST_BYTES = 64 << 20
"""Bytes of a model from which on it is shared; a smaller one is copied within a moment."""
LONGEST_WAIT = 300.0
"""Seconds that a job waits for another one that fetches the same model, before it fetches a copy for itself."""
POLL_SECONDS = 0.1
NEEDED = frozenset({"capabilities", "landlock", "seccomp"})
"""Protections without which a child could change a file that is read-only."""
KEY_BYTES = 32
ENTRY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SharedModels:
    """The models of a tenant that jobs share, in a folder of at most `most_bytes` for the models of all tenants.

    Tenants share nothing, not even a model that they both have: how fast a job begins would tell one of the other.
    Nor can a child find out whether a file of a name exists, which Landlock does not hide: names need the key.
    """

    folder: Path
    tenant: str
    most_bytes: int
    key: bytes

    def lay_out(self, digest: str, place: Path, copy: Callable[[], None], check: Callable[[], None]) -> None:
        """Puts the verified bytes of a model at `place`: the shared file, or what `copy` writes and verifies there.

        `check` is called again and again, and may raise.
        """
        entry = self.folder / hmac.new(self.key, f"{self.tenant} {digest}".encode(), "sha256").hexdigest()
        while True:
            with self._turn(entry, check):
                if not _linked(entry, place):
                    copy()
                    self._keep(place, entry)
                    return
            with place.open("rb", buffering=0) as file:
                if digest_of(_Checked(file, check)) == digest:
                    return
            log.error("the shared bytes of %s were damaged or changed; they are fetched again", digest)
            for name in (entry, place):
                name.unlink(missing_ok=True)

    def evict(self, most_bytes: int) -> None:
        """Deletes the least recently used models until the rest fits, and those that a job still reads last.

        Such a job keeps its file, whose bytes leave the disk when the job ends.
        """
        entries = sorted(_entries(self.folder), key=lambda entry: (entry[1].st_nlink > 1, entry[1].st_mtime_ns))
        left = sum(about.st_size for _, about in entries)
        for path, about in entries:
            if left <= most_bytes:
                return
            path.unlink(missing_ok=True)  # another worker may be faster
            left -= about.st_size

    def forget(self, unused_for: timedelta) -> None:
        """Deletes the models, of all tenants, that no job has begun to read for so long."""
        since = time.time() - unused_for.total_seconds()
        for path, about in _entries(self.folder):
            if about.st_mtime < since:
                path.unlink(missing_ok=True)
        for path in self.folder.glob("*.incoming"):  # of workers that were killed while they made the key
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < since:
                    path.unlink()

    def _keep(self, place: Path, entry: Path) -> None:
        """Gives a job's copy its second name, if it is large enough and small enough; failures cost only time."""
        if not LEAST_BYTES <= place.stat().st_size <= self.most_bytes or not _protected():
            return
        try:
            os.link(place, entry)
        except OSError as fault:
            log.warning("a model is not shared with later jobs: %s", fault)
            return
        self.evict(self.most_bytes)

    @contextmanager
    def _turn(self, entry: Path, check: Callable[[], None]) -> Iterator[None]:
        """Keeps other jobs from fetching the same model meanwhile, unless it takes very long."""
        with (self.folder / f"{entry.name[:2]}.lock").open("ab") as lock:
            ends = time.monotonic() + LONGEST_WAIT
            while not _taken(lock) and time.monotonic() < ends:
                check()
                time.sleep(POLL_SECONDS)
            yield


def opened(scratch: Path, tenant: str, most_bytes: int) -> SharedModels | None:
    """The shared models of a tenant on a scratch disk.

    None where they would be in memory, where their folder is not this user's alone, and where there is no room for it.
    """
    folder = scratch / f"caveat-models-{os.geteuid()}"
    try:
        if _in_memory(scratch.stat().st_dev):
            return None
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
            log.warning("no model is shared with later jobs: %s does not belong to this user alone", folder)
            return None
        return SharedModels(folder, tenant, most_bytes, _key(folder))
    except OSError as fault:
        log.warning("no model is shared with later jobs: %s", fault)
        return None


@dataclass(frozen=True)
class _Checked:
    """A file that is read until `check` raises."""

    file: BinaryIO
    check: Callable[[], None]

    def read(self, size: int, /) -> bytes:
        """Reads, after a check."""
        self.check()
        return self.file.read(size)


def _linked(entry: Path, place: Path) -> bool:
    """Gives a shared file the name `place` as well, and notes its use; False if there is none, or it may not be."""
    if not entry.exists() or not _protected():
        return False
    try:
        os.link(entry, place)
        os.utime(place)
    except FileNotFoundError:  # evicted meanwhile
        return False
    except OSError as fault:
        log.warning("a shared model is copied instead: %s", fault)
        place.unlink(missing_ok=True)
        return False
    return True


def _key(folder: Path) -> bytes:
    """The key of the names in a folder, which the first worker makes; a machine that lost power may have emptied it."""
    place = folder / "key"
    while True:
        with suppress(FileNotFoundError):
            if len(key := place.read_bytes()) == KEY_BYTES:
                return key
            place.unlink()
        fresh = folder / f"{secrets.token_hex(8)}.incoming"
        fresh.write_bytes(secrets.token_bytes(KEY_BYTES))
        with suppress(FileExistsError):  # another worker was faster
            os.link(fresh, place)
        fresh.unlink()


def _protected() -> bool:
    return NEEDED.isdisjoint(missing_protections())


def _taken(lock: BinaryIO) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        if ENTRY.fullmatch(path.name):
            with suppress(FileNotFoundError):
                yield path, path.stat()


def _in_memory(device: int) -> bool:
    """Whether a file system is in memory, where a model that is kept would take that from jobs."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    return any(one.split()[2] == number and re.search(r" - (tmpfs|ramfs) ", one) for one in mounts)
