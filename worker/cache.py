"""Arrays that an audit computed, kept for the tenant's next one: bounded, the least recently used go first.

A child process sees the folder of its own tenant and model, and may only read it; what it computes it leaves among its
outputs. The supervisor moves that in once the child has ended well. So nobody writes to a file that somebody reads, and
what a hostile model leaves behind can only be found by audits of the same model for the same tenant.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

ENTRY = re.compile(r"[0-9a-f]{64}\.npy")
USED = "used"
"""Beside its entries a child leaves the names of those that it found useful, one a line."""
LARGEST_SHARE = 4
"""An entry may take up to a fourth of the cache: one audit does not push out all others."""
LARGEST_USED = 1 << 20  # bytes


@dataclass(frozen=True)
class Cache:
    """A folder of at most `most_bytes`; many workers may share it."""

    root: Path
    most_bytes: int

    def corner(self, tenant: str, model: str) -> Corner:
        """What a tenant's audits of one model (its digest) may share."""
        folder = self.root / _name(tenant) / _name(model)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Corner(self, folder)

    def evict(self) -> None:
        """Takes out what was not used for longest, until the rest fits."""
        entries = sorted(_entries(self.root), key=lambda entry: entry[1])
        left = sum(size for size, _, _ in entries)
        for size, _, path in entries:
            if left <= self.most_bytes:
                return
            with suppress(FileNotFoundError):  # another worker was faster
                path.unlink()
            left -= size


@dataclass(frozen=True)
class Corner:
    """The part of a cache that one child process may read."""

    cache: Cache
    folder: Path

    def take_in(self, outputs: int) -> None:
        """Moves in what an ended child left in `cache/` of its outputs; where that fails, nothing is lost but time."""
        try:
            self._take_in(outputs)
        except OSError as fault:
            log.warning("what a child computed could not be kept: %s", fault)

    def _take_in(self, outputs: int) -> None:
        with ExitStack() as opened:
            try:
                left = os.open("cache", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=outputs)
            except OSError:
                return
            opened.callback(os.close, left)
            for name in os.listdir(left):
                if ENTRY.fullmatch(name):
                    self._take(left, name)
            self._touch(_read(left, USED).split())
        self.cache.evict()

    def _take(self, left: int, name: str) -> None:
        """Moves one entry in, if it is a file of its own and not too large."""
        with ExitStack() as opened:
            try:
                entry = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=left)
            except OSError:
                return
            opened.callback(os.close, entry)
            about = os.fstat(entry)
            if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
                return
            if about.st_size > self.cache.most_bytes // LARGEST_SHARE:
                return
            os.fchmod(entry, 0o400)
            try:
                os.rename(name, self.folder / name, src_dir_fd=left)
            except OSError:  # another file system
                incoming = self.folder / f"{secrets.token_hex(8)}.incoming"
                with os.fdopen(os.dup(entry), "rb") as source, incoming.open("wb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
                    os.fchmod(copy.fileno(), 0o400)
                incoming.replace(self.folder / name)

    def _touch(self, names: list[bytes]) -> None:
        """Notes that entries were used just now."""
        for name in {name.decode(errors="replace") for name in names}:
            if ENTRY.fullmatch(name):
                with suppress(FileNotFoundError):
                    os.utime(self.folder / name)


def _entries(root: Path) -> Iterator[tuple[int, float, Path]]:
    """Size, time of last use, and path of everything kept, what a lost worker left half-way included."""
    for path in root.glob("*/*/*"):
        with suppress(FileNotFoundError):
            about = path.stat()
            yield about.st_size, about.st_mtime, path


def _read(folder: int, name: str) -> bytes:
    """A small file, if it is there and a file."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        return file.read() if stat.S_ISREG(about.st_mode) and about.st_size <= LARGEST_USED else b""


def _name(of: str) -> str:
    """A folder's name for any tenant or digest."""
    return hashlib.sha256(of.encode()).hexdigest()[:32]
