"""Resumable uploads: received parts are stored apart from the blobs until the upload is complete.

Each request stores a piece, whose name holds the tenant, the digest and the offset. Pieces overlap if a client resumes
while its previous request still runs. Only their tenant can see them, as a number of bytes.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from caveat_storage.blobs import CHUNK, Blobs, Readable, in_chunks


class OtherOffsetError(Exception):
    """The request does not continue at the end of the stored bytes."""

    def __init__(self, expected: int, given: int) -> None:
        """Takes the expected offset and the one of the request."""
        super().__init__(f"{expected} bytes of this upload are stored, so it cannot continue at {given}.")
        self.expected = expected


MOST = 1000
"""Most pieces of a tenant's uploads; every request lists all of them."""


class TooManyPiecesError(Exception):
    """The tenant has as many pieces of uploads as it may."""


@dataclass(frozen=True)
class _Piece:
    """Bytes `begin` to `end` of an upload."""

    path: str
    begin: int
    end: int


@dataclass(frozen=True)
class Uploads:
    """The incomplete uploads in a blob store."""

    blobs: Blobs

    def reached(self, tenant: str, digest: str) -> int:
        """Number of stored bytes of a tenant's upload, where it continues."""
        return _reached(self._pieces(tenant, digest))

    def held(self, tenant: str, *, but: str | None = None) -> int:
        """Number of stored bytes of a tenant's uploads, except the one of digest `but`."""
        mine = self._listed(_mark(tenant))
        this = {} if but is None else self._listed(_prefix(tenant, but))
        return sum(size for path, size in mine.items() if path not in this)

    def append(self, tenant: str, digest: str, offset: int, stream: Readable, *, complete: bool) -> int:
        """Appends the bytes of `stream`, keeping them if the stream breaks; returns the number of stored bytes.

        With `complete`, the bytes become the blob of that digest.

        Raises:
            OtherOffsetError: the upload does not continue at `offset`.
            WrongDigestError: the bytes have another digest; none are kept.
            TooManyPiecesError: the tenant has `MOST` pieces.
        """
        if len(self._listed(_mark(tenant))) >= MOST:
            raise TooManyPiecesError
        pieces = self._pieces(tenant, digest)
        if offset != _reached(pieces):
            raise OtherOffsetError(_reached(pieces), offset)
        path = f"{self._place}/{_prefix(tenant, digest)}{offset:015d}-{secrets.token_hex(8)}"
        size, seen = self._receive(stream, path)
        if not complete:
            return offset + size
        try:
            if pieces:
                self.blobs.put(_Joined(self.blobs, [*pieces, _Piece(path, offset, offset + size)]), digest)
            else:
                self.blobs.adopt(path, digest, f"sha256:{seen}", size)
        except FileNotFoundError as fault:  # another request completed the upload first, or it has expired
            raise OtherOffsetError(self.reached(tenant, digest), offset) from fault
        finally:
            self.drop(tenant, digest)
        return offset + size

    def expire(self, older_than: timedelta) -> None:
        """Deletes pieces older than `older_than`."""
        for path in self._listed():
            with suppress(FileNotFoundError):  # deleted concurrently
                if self.blobs.filesystem.modified(path) < datetime.now(UTC) - older_than:
                    self.blobs.filesystem.rm_file(path)

    @property
    def _place(self) -> str:
        return f"{self.blobs.root}/uploads"

    def _receive(self, stream: Readable, path: str) -> tuple[int, str]:
        """Writes a piece; received bytes are kept however the stream ends."""
        self.blobs.filesystem.makedirs(self._place, exist_ok=True)
        size, seen = 0, hashlib.sha256()
        with self.blobs.filesystem.open(path, "wb") as kept:
            for chunk in in_chunks(stream):
                kept.write(chunk)
                seen.update(chunk)
                size += len(chunk)
        return size, seen.hexdigest()

    def _pieces(self, tenant: str, digest: str) -> list[_Piece]:
        """The pieces that form a contiguous sequence from the first byte."""
        found = []
        for path, size in self._listed(_prefix(tenant, digest)).items():
            begin = int(path.rsplit("-", 2)[1])
            found.append(_Piece(path, begin, begin + size))
        chain: list[_Piece] = []
        for piece in sorted(found, key=lambda one: (one.begin, one.end)):
            if piece.begin <= _reached(chain) < piece.end:
                chain.append(piece)
        return chain

    def _listed(self, prefix: str = "") -> dict[str, int]:
        """Paths of pieces and their sizes in bytes."""
        filesystem = self.blobs.filesystem
        filesystem.invalidate_cache(self._place)
        try:
            entries: list[dict[str, Any]] = filesystem.ls(self._place, detail=True)
        except FileNotFoundError:
            return {}
        return {one["name"]: int(one["size"]) for one in entries if one["name"].rpartition("/")[2].startswith(prefix)}

    def drop(self, tenant: str, digest: str) -> None:
        """Deletes the pieces of an upload."""
        for path in self._listed(_prefix(tenant, digest)):
            with suppress(FileNotFoundError):
                self.blobs.filesystem.rm_file(path)


class _Joined:
    """Pieces read as one stream, without their overlaps."""

    def __init__(self, blobs: Blobs, pieces: list[_Piece]) -> None:
        self._chunks = self._read(blobs, pieces)

    def read(self, size: int, /) -> bytes:
        """Returns the next bytes, of any number; none at the end."""
        return next(self._chunks, b"")

    @staticmethod
    def _read(blobs: Blobs, pieces: list[_Piece]) -> Iterator[bytes]:
        reached = 0
        for piece in pieces:
            with blobs.filesystem.open(piece.path, "rb") as kept:
                kept.seek(reached - piece.begin)
                while reached < piece.end:  # the file may have grown, if an abandoned request still writes to it
                    chunk = kept.read(min(CHUNK, piece.end - reached))
                    if not chunk:
                        raise FileNotFoundError(piece.path)
                    reached += len(chunk)
                    yield chunk


def _reached(chain: list[_Piece]) -> int:
    return chain[-1].end if chain else 0


def _prefix(tenant: str, digest: str) -> str:
    """Prefix of the names of an upload's pieces; the tenant's name is hashed, since it may not be usable in a path."""
    return f"{_mark(tenant)}{digest.rpartition(':')[2]}-"


def _mark(tenant: str) -> str:
    return f"{hashlib.sha256(tenant.encode()).hexdigest()[:16]}-"
