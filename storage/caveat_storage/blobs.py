"""Bytes by their SHA-256, over fsspec: a folder by default, S3 or Google Cloud Storage by URL.

Bytes are written to a temporary file and moved into place once their digest is verified, so readers never see partial
bytes. Whoever reads them verifies the digest again: a disk may fail, and others may write to the store. Damaged bytes
are never used, and the next upload of the genuine ones replaces them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from caveat_spec.base import digest_of_bytes
from caveat_spec.disk_faults import DiskError, of_disk
from caveat_spec.problem import ProblemDetails

if TYPE_CHECKING:
    import fsspec

log = logging.getLogger(__name__)

CHUNK = 1 << 20


class Readable(Protocol):
    """A source of bytes."""

    def read(self, size: int, /) -> bytes:
        """Returns the next bytes, at most `size`; none at the end."""


class Writable(Protocol):
    """A sink for bytes."""

    def write(self, data: bytes, /) -> int:
        """Writes bytes and returns their number."""


class WrongDigestError(Exception):
    """The received bytes do not have the announced digest."""

    def __init__(self, announced: str, came: str) -> None:
        """Takes the announced and the actual digest."""
        super().__init__(f"These bytes are {came}, not {announced}.")
        self.announced, self.came = announced, came


class CorruptBytesError(Exception):
    """Stored bytes no longer have the digest under which they are stored."""

    def __init__(self, digest: str, came: str) -> None:
        """Takes the digest under which the bytes are stored, and their actual one."""
        super().__init__(f"The stored bytes of {digest} were damaged or changed: their digest is now {came}.")
        self.digest = digest

    @property
    def problem(self) -> ProblemDetails:
        """What a client is told."""
        return ProblemDetails.of(
            "corrupt-bytes",
            500,
            f"{self} They were not used.",
            "Upload the genuine bytes again, or repeat the audit if they are its report: either replaces them. "
            "An operator finds the cause with 'caveat scrub' (docs/operations.md: CaveatCorruptBytes).",
        )


class MissingBytesError(FileNotFoundError):
    """Stored bytes are gone."""

    def __init__(self, digest: str) -> None:
        """Takes the digest under which the bytes were stored."""
        super().__init__(f"The stored bytes of {digest} are missing.")
        self.digest = digest

    @property
    def problem(self) -> ProblemDetails:
        """What a client is told."""
        return ProblemDetails.of(
            "missing-bytes",
            500,
            str(self),
            "Upload the bytes again, or repeat the audit if they are its report. "
            "An operator lists what else is missing with 'caveat scrub' (docs/operations.md: CaveatCorruptBytes).",
        )


def _log_damage(digest: str) -> None:
    log.error("the stored bytes of %s are damaged", digest)


@dataclass(frozen=True)
class Blobs:
    """A store of bytes by digest."""

    filesystem: fsspec.AbstractFileSystem
    root: str
    arriving: Callable[[str, int], AbstractContextManager[object]] = lambda digest, size: nullcontext()
    """Context in which verified bytes of a digest, so many, are moved into place."""
    damaged: Callable[[str], None] = _log_damage
    """Called with the digest of bytes that turn out to be damaged, before `CorruptBytesError` is raised."""

    @classmethod
    def at(cls, url: str) -> Blobs:
        """Opens the store at a URL or path, for example `file:///var/lib/caveat/blobs` or `s3://bucket/caveat`."""
        import fsspec

        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)  # others write to it as well
        return cls(filesystem, root.rstrip("/"))

    def put(self, stream: Readable, digest: str) -> int:
        """Stores the bytes of `stream` under `digest`; returns their number.

        Raises:
            WrongDigestError: the bytes have another digest; nothing was stored.
            DiskError: the disk is full or fails; nothing was stored.
        """
        incoming = f"{self.root}/incoming/{secrets.token_hex(16)}"
        seen, size = hashlib.sha256(), 0
        with of_disk("blobs"):
            self.filesystem.makedirs(f"{self.root}/incoming", exist_ok=True)
            try:
                with self.filesystem.open(incoming, "wb") as kept:
                    for chunk in in_chunks(stream):
                        seen.update(chunk)
                        size += len(chunk)
                        kept.write(chunk)
                self.adopt(incoming, digest, f"sha256:{seen.hexdigest()}", size)
            except BaseException:
                with suppress(OSError):
                    self.filesystem.rm_file(incoming)
                raise
        return size

    def adopt(self, path: str, digest: str, came: str, size: int) -> None:
        """Moves a file of this store into the place of `digest`; `came` is the verified digest of its `size` bytes.

        Raises:
            WrongDigestError: the digests differ; the file stays where it is.
        """
        if came != digest:
            raise WrongDigestError(digest, came)
        place = self._place(digest)
        with of_disk("blobs"):
            self.filesystem.makedirs(place.rpartition("/")[0], exist_ok=True)
            if self._is_a_folder:
                _to_disk(path)
            with self.arriving(digest, size):
                if self._is_a_folder:
                    os.replace(path, place)
                else:
                    self.filesystem.mv(path, place)

    def exists(self, digest: str) -> bool:
        """Whether the store has these bytes, no matter who uploaded them."""
        return bool(self.filesystem.exists(self._place(digest)))

    def size(self, digest: str) -> int:
        """Number of bytes."""
        return int(self.filesystem.size(self._place(digest)))

    def open(self, digest: str) -> BinaryIO:
        """Opens the bytes for reading once all of them are verified; the caller closes them.

        Raises:
            CorruptBytesError: they have another digest.
            MissingBytesError: they are gone.
            DiskError: the disk cannot read them.
        """
        kept = self._opened(digest)
        try:
            with of_disk("blobs"):
                self._verify(digest, digest_of(kept))
                kept.seek(0)
        except BaseException:
            kept.close()
            raise
        return kept

    def read(self, digest: str) -> bytes:
        """Reads all bytes into memory, as `open` does; for small blobs."""
        with of_disk("blobs"), self._opened(digest) as kept:
            data = kept.read()
        self._verify(digest, digest_of_bytes(data))
        return data

    def copy(self, digest: str, into: Writable) -> None:
        """Copies the bytes to `into` in chunks, and verifies them on their way.

        Raises:
            CorruptBytesError: what was copied has another digest and must not be used.
            MissingBytesError: they are gone.
            DiskError: the disk cannot read them.
        """
        seen = hashlib.sha256()
        with of_disk("blobs"), self._opened(digest) as kept:
            for chunk in in_chunks(kept):
                seen.update(chunk)
                into.write(chunk)
        self._verify(digest, f"sha256:{seen.hexdigest()}")

    def verify(self, digest: str) -> int:
        """Reads all bytes to verify them, as `copy` does; returns their number."""
        counted = _Counted()
        self.copy(digest, counted)
        return counted.size

    def digests(self) -> Iterator[str]:
        """The digests of all stored bytes."""
        for path in self.filesystem.find(f"{self.root}/sha256"):
            yield f"sha256:{path.rpartition('/')[2]}"

    def remove(self, digest: str) -> None:
        """Deletes bytes; only `caveat_storage.blob_registry` knows which may be deleted."""
        with suppress(FileNotFoundError):
            self.filesystem.rm_file(self._place(digest))

    def forget_incoming(self, older_than: timedelta) -> int:
        """Deletes remains of interrupted writes older than `older_than`; returns their number."""
        found = 0
        for path in self.filesystem.find(f"{self.root}/incoming"):
            with suppress(FileNotFoundError):  # moved into place meanwhile
                if self.filesystem.modified(path) < datetime.now(UTC) - older_than:
                    self.filesystem.rm_file(path)
                    found += 1
        return found

    def clear(self) -> None:
        """Deletes the whole store; for bytes that are needed only temporarily."""
        with suppress(FileNotFoundError):
            self.filesystem.rm(self.root, recursive=True)

    def fault(self) -> str | None:
        """Code of the problem that keeps the store from accepting a byte at the moment; None if it accepts one."""
        probe = f"{self.root}/incoming/{secrets.token_hex(16)}"
        try:
            with of_disk("blobs"):
                self.filesystem.makedirs(f"{self.root}/incoming", exist_ok=True)
                self.filesystem.pipe_file(probe, b"1")
                if self._is_a_folder:
                    _to_disk(probe)
        except DiskError as fault:
            return fault.problem.code
        except Exception:
            return "blobs-away"
        finally:
            with suppress(Exception):
                self.filesystem.rm_file(probe)
        return None

    def _opened(self, digest: str) -> BinaryIO:
        try:
            with of_disk("blobs"):
                return cast(BinaryIO, self.filesystem.open(self._place(digest), "rb"))
        except FileNotFoundError as fault:
            raise MissingBytesError(digest) from fault

    def _verify(self, digest: str, came: str) -> None:
        if came != digest:
            self.damaged(digest)
            raise CorruptBytesError(digest, came)

    @property
    def _is_a_folder(self) -> bool:
        from fsspec.implementations.local import LocalFileSystem

        return isinstance(self.filesystem, LocalFileSystem)

    def _place(self, digest: str) -> str:
        algorithm, _, hexadecimal = digest.partition(":")
        return f"{self.root}/{algorithm}/{hexadecimal[:2]}/{hexadecimal}"


@dataclass
class _Counted:
    """A sink that only counts."""

    size: int = 0

    def write(self, data: bytes, /) -> int:
        """Counts bytes."""
        self.size += len(data)
        return len(data)


def digest_of(stream: Readable) -> str:
    """The digest of a stream's bytes."""
    seen = hashlib.sha256()
    for chunk in in_chunks(stream):
        seen.update(chunk)
    return f"sha256:{seen.hexdigest()}"


def in_chunks(stream: Readable) -> Iterator[bytes]:
    """The bytes of a stream in chunks of a mebibyte."""
    while chunk := stream.read(CHUNK):
        yield chunk


def _to_disk(path: str) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
