"""Bytes by their SHA-256, over fsspec: a folder by default, S3 or Google Cloud Storage by URL.

Bytes are written beside the place where they belong and moved there once their digest is verified, so nobody ever sees
half of them, and what is there never changes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, Protocol, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

CHUNK = 1 << 20


class Readable(Protocol):
    """Something that gives bytes until there are none."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most `size` of them; none at the end."""


class Writable(Protocol):
    """Something that takes bytes."""

    def write(self, data: bytes, /) -> int:
        """Takes some bytes, and says how many."""


class WrongDigestError(Exception):
    """The bytes that came are not those that were announced."""

    def __init__(self, announced: str, came: str) -> None:
        """Names both digests."""
        super().__init__(f"These bytes are {came}, not {announced}.")
        self.announced, self.came = announced, came


@dataclass(frozen=True)
class Blobs:
    """A place that holds bytes by their digest."""

    filesystem: fsspec.AbstractFileSystem
    root: str
    arriving: Callable[[str], AbstractContextManager[object]] = lambda digest: nullcontext()
    """Entered with a digest whose bytes have come and are right; they come to their place inside it."""

    @classmethod
    def at(cls, url: str) -> Blobs:
        """The place that a URL or a path names, for example `file:///var/lib/caveat/blobs` or `s3://bucket/caveat`."""
        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)  # others write there as well
        return cls(filesystem, root.rstrip("/"))

    def put(self, stream: Readable, digest: str) -> int:
        """Keeps what `stream` gives, if it is what `digest` announces; returns its size in bytes.

        Raises:
            WrongDigestError: it is something else, and nothing was kept.
        """
        incoming = f"{self.root}/incoming/{secrets.token_hex(16)}"
        self.filesystem.makedirs(f"{self.root}/incoming", exist_ok=True)
        seen, size = hashlib.sha256(), 0
        try:
            with self.filesystem.open(incoming, "wb") as kept:
                for chunk in in_chunks(stream):
                    seen.update(chunk)
                    size += len(chunk)
                    kept.write(chunk)
            self.adopt(incoming, digest, f"sha256:{seen.hexdigest()}")
        except BaseException:
            if self.filesystem.exists(incoming):
                self.filesystem.rm_file(incoming)
            raise
        return size

    def adopt(self, path: str, digest: str, came: str) -> None:
        """Moves a file of this place to where its digest belongs; `came` is what its bytes proved to be.

        Raises:
            WrongDigestError: that is something else, and the file stays where it is.
        """
        if came != digest:
            raise WrongDigestError(digest, came)
        place = self._place(digest)
        self.filesystem.makedirs(place.rpartition("/")[0], exist_ok=True)
        if self._is_a_folder:
            _to_disk(path)
        with self.arriving(digest):
            if self._is_a_folder:
                os.replace(path, place)
            else:
                self.filesystem.mv(path, place)

    def exists(self, digest: str) -> bool:
        """Whether these bytes are here, whoever put them in."""
        return bool(self.filesystem.exists(self._place(digest)))

    def size(self, digest: str) -> int:
        """How many bytes there are."""
        return int(self.filesystem.size(self._place(digest)))

    def open(self, digest: str) -> BinaryIO:
        """The bytes, to be read and closed."""
        return cast(BinaryIO, self.filesystem.open(self._place(digest), "rb"))

    def read(self, digest: str) -> bytes:
        """All the bytes at once; for those that are known to be few."""
        return cast(bytes, self.filesystem.cat_file(self._place(digest)))

    def copy(self, digest: str, into: Writable) -> None:
        """Writes the bytes into a file, a piece at a time; a copy shares nothing with what is kept."""
        with self.open(digest) as kept:
            for chunk in in_chunks(kept):
                into.write(chunk)

    def digests(self) -> Iterator[str]:
        """Of everything that is here."""
        for path in self.filesystem.find(f"{self.root}/sha256"):
            yield f"sha256:{path.rpartition('/')[2]}"

    def remove(self, digest: str) -> None:
        """Deletes bytes; `vault.storage` knows which may go."""
        with suppress(FileNotFoundError):
            self.filesystem.rm_file(self._place(digest))

    def forget_incoming(self, older_than: timedelta) -> int:
        """Deletes what came of bytes whose sender or process died meanwhile; returns how many there were."""
        found = 0
        for path in self.filesystem.find(f"{self.root}/incoming"):
            with suppress(FileNotFoundError):  # it has arrived by now
                if self.filesystem.modified(path) < datetime.now(UTC) - older_than:
                    self.filesystem.rm_file(path)
                    found += 1
        return found

    def clear(self) -> None:
        """Forgets everything that is here; for places whose bytes are needed for a while only."""
        with suppress(FileNotFoundError):
            self.filesystem.rm(self.root, recursive=True)

    def is_writable(self) -> bool:
        """Whether bytes can be kept here now."""
        probe = f"{self.root}/incoming/{secrets.token_hex(16)}"
        try:
            self.filesystem.makedirs(f"{self.root}/incoming", exist_ok=True)
            self.filesystem.pipe_file(probe, b"")
            self.filesystem.rm_file(probe)
        except Exception:
            return False
        return True

    @property
    def _is_a_folder(self) -> bool:
        return isinstance(self.filesystem, LocalFileSystem)

    def _place(self, digest: str) -> str:
        algorithm, _, hexadecimal = digest.partition(":")
        return f"{self.root}/{algorithm}/{hexadecimal[:2]}/{hexadecimal}"


def digest_of(stream: Readable) -> str:
    """The digest of what a stream gives."""
    seen = hashlib.sha256()
    for chunk in in_chunks(stream):
        seen.update(chunk)
    return f"sha256:{seen.hexdigest()}"


def in_chunks(stream: Readable) -> Iterator[bytes]:
    """What a stream gives, a megabyte at a time."""
    while chunk := stream.read(CHUNK):
        yield chunk


def _to_disk(path: str) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
