"""A bounded cache of arrays for later audits of the same tenant; the least recently used entries are evicted.

A child process can read only the part for its own tenant and model, and it leaves new arrays among its outputs. The
supervisor moves them into the cache once the child has succeeded. So no process writes to a file that another one
reads, and a malicious model can affect only audits of the same model by the same tenant.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from caveat_worker.jobs.output_files import open_file, open_folder, read_file

log = logging.getLogger(__name__)

ENTRY = re.compile(r"[0-9a-f]{64}\.npy")
USED = "used"
"""File among a child's outputs that names the cache entries it used, one per line."""
LARGEST_SHARE = 4
"""An entry may fill at most this fraction of the cache, so one audit does not evict all others."""
LARGEST_USED = 1 << 20  # bytes


@dataclass(frozen=True)
class Cache:
    """A folder of at most `most_bytes`, which many workers can share."""

    root: Path
    most_bytes: int

    def namespace(self, tenant: str, model: str) -> Namespace:
        """The part of the cache for a tenant's audits of one model (its digest)."""
        folder = self.root / _name(tenant) / _name(model)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Namespace(self, folder)

    def evict(self) -> None:
        """Deletes the least recently used entries until the rest fits."""
        entries = sorted(_entries(self.root), key=lambda entry: entry[1])
        left = sum(size for size, _, _ in entries)
        for size, _, path in entries:
            if left <= self.most_bytes:
                return
            with suppress(FileNotFoundError):  # another worker was faster
                path.unlink()
            left -= size


@dataclass(frozen=True)
class Namespace:
    """The part of a cache that a child process may read."""

    cache: Cache
    folder: Path

    def take_in(self, outputs: int) -> None:
        """Moves new entries from `cache/` among a child's outputs into the cache; failures cost only time."""
        try:
            self._take_in(outputs)
        except OSError as fault:
            log.warning("the results of a child could not be cached: %s", fault)

    def _take_in(self, outputs: int) -> None:
        left = open_folder(outputs, "cache")
        if left is None:
            return
        try:
            for name in filter(ENTRY.fullmatch, os.listdir(left)):
                self._take(left, name)
            self._touch((read_file(left, USED, largest=LARGEST_USED) or b"").split())
        finally:
            os.close(left)
        self.cache.evict()

    def _take(self, left: int, name: str) -> None:
        """Moves one entry into the cache, if it is a regular file of acceptable size."""
        entry = open_file(left, name, largest=self.cache.most_bytes // LARGEST_SHARE)
        if entry is None:
            return
        with entry:
            os.fchmod(entry.fileno(), 0o400)
            try:
                os.rename(name, self.folder / name, src_dir_fd=left)
            except OSError:  # another file system
                incoming = self.folder / f"{secrets.token_hex(8)}.incoming"
                with incoming.open("wb") as copy:
                    shutil.copyfileobj(entry, copy, 1 << 20)
                    os.fchmod(copy.fileno(), 0o400)
                incoming.replace(self.folder / name)

    def _touch(self, names: list[bytes]) -> None:
        """Updates the time of last use of entries."""
        for name in {name.decode(errors="replace") for name in names}:
            if ENTRY.fullmatch(name):
                with suppress(FileNotFoundError):
                    os.utime(self.folder / name)


def _entries(root: Path) -> Iterator[tuple[int, float, Path]]:
    """Size, time of last use, and path of all entries, including incomplete ones of lost workers."""
    for path in root.glob("*/*/*"):
        with suppress(FileNotFoundError):
            about = path.stat()
            yield about.st_size, about.st_mtime, path


def _name(of: str) -> str:
    """A folder name for any tenant or digest."""
    return hashlib.sha256(of.encode()).hexdigest()[:32]
