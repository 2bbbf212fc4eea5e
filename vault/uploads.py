"""Uploads that may break off: what has arrived is kept, apart from the blobs, until the rest has come.

What one request brings is a piece; its name says whose it is, of which digest, and where it begins. Pieces may overlap,
when a request goes on that its sender has given up. Nobody sees them but their tenant, as a number of bytes.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from vault.blobs import CHUNK, Blobs, Readable, in_chunks


class OtherOffsetError(Exception):
    """The bytes that come do not go on where those end that are kept."""

    def __init__(self, expected: int, given: int) -> None:
        """Names both offsets."""
        super().__init__(f"{expected} bytes of this upload are kept, so it cannot go on at {given}.")
        self.expected = expected


MOST = 1000
"""Pieces that may be kept of a tenant's uploads: each request looks through all of them."""


class TooManyPiecesError(Exception):
    """As many pieces of a tenant's uploads are kept as may be."""


@dataclass(frozen=True)
class _Piece:
    """Bytes `begin` to `end` of an upload."""

    path: str
    begin: int
    end: int


@dataclass(frozen=True)
class Uploads:
    """What has arrived of blobs that are not whole yet."""

    blobs: Blobs

    def reached(self, tenant: str, digest: str) -> int:
        """How many bytes of a tenant's upload are kept: where it goes on."""
        return _reached(self._pieces(tenant, digest))

    def held(self, tenant: str, *, but: str) -> int:
        """How many bytes are kept of a tenant's uploads, all but the one of this digest."""
        this = _prefix(tenant, but)
        mine = self._listed(_mark(tenant))
        return sum(size for path, size in mine.items() if not path.rpartition("/")[2].startswith(this))

    def append(self, tenant: str, digest: str, offset: int, stream: Readable, *, complete: bool) -> int:
        """Adds what `stream` gives, and keeps it should the stream break off; returns how many bytes there are now.

        With `complete` all the bytes become the blob of that digest.

        Raises:
            OtherOffsetError: the upload does not go on at `offset`.
            WrongDigestError: the bytes are not those that were announced; none are kept.
            TooManyPiecesError: there are `MOST` of the tenant's.
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
                self.blobs.adopt(path, digest, f"sha256:{seen}")
        except FileNotFoundError as fault:  # another request of the same upload was done first, or it has expired
            raise OtherOffsetError(self.reached(tenant, digest), offset) from fault
        finally:
            self._drop(tenant, digest)
        return offset + size

    def expire(self, older_than: timedelta) -> None:
        """Forgets pieces that came longer ago than that."""
        for path in self._listed():
            with suppress(FileNotFoundError):  # somebody else was faster
                if self.blobs.filesystem.modified(path) < datetime.now(UTC) - older_than:
                    self.blobs.filesystem.rm_file(path)

    @property
    def _place(self) -> str:
        return f"{self.blobs.root}/uploads"

    def _receive(self, stream: Readable, path: str) -> tuple[int, str]:
        """Writes a piece; closing the file keeps what has come, whatever ended it."""
        self.blobs.filesystem.makedirs(self._place, exist_ok=True)
        size, seen = 0, hashlib.sha256()
        with self.blobs.filesystem.open(path, "wb") as kept:
            for chunk in in_chunks(stream):
                kept.write(chunk)
                seen.update(chunk)
                size += len(chunk)
        return size, seen.hexdigest()

    def _pieces(self, tenant: str, digest: str) -> list[_Piece]:
        """The pieces that follow one another from the first byte on."""
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
        """Paths of pieces and their sizes."""
        filesystem = self.blobs.filesystem
        filesystem.invalidate_cache(self._place)
        try:
            entries: list[dict[str, Any]] = filesystem.ls(self._place, detail=True)
        except FileNotFoundError:
            return {}
        return {one["name"]: int(one["size"]) for one in entries if one["name"].rpartition("/")[2].startswith(prefix)}

    def _drop(self, tenant: str, digest: str) -> None:
        for path in self._listed(_prefix(tenant, digest)):
            with suppress(FileNotFoundError):
                self.blobs.filesystem.rm_file(path)


class _Joined:
    """Pieces read as one stream, each byte once."""

    def __init__(self, blobs: Blobs, pieces: list[_Piece]) -> None:
        self._chunks = self._read(blobs, pieces)

    def read(self, size: int, /) -> bytes:
        """The next bytes; as many as come to hand, none at the end."""
        return next(self._chunks, b"")

    @staticmethod
    def _read(blobs: Blobs, pieces: list[_Piece]) -> Iterator[bytes]:
        reached = 0
        for piece in pieces:
            with blobs.filesystem.open(piece.path, "rb") as kept:
                kept.seek(reached - piece.begin)
                while reached < piece.end:  # there may be more by now, from a request that was given up
                    chunk = kept.read(min(CHUNK, piece.end - reached))
                    if not chunk:
                        raise FileNotFoundError(piece.path)
                    reached += len(chunk)
                    yield chunk


def _reached(chain: list[_Piece]) -> int:
    return chain[-1].end if chain else 0


def _prefix(tenant: str, digest: str) -> str:
    """What the names of an upload's pieces begin with; a tenant's name may not be fit for a path."""
    return f"{_mark(tenant)}{digest.rpartition(':')[2]}-"


def _mark(tenant: str) -> str:
    return f"{hashlib.sha256(tenant.encode()).hexdigest()[:16]}-"
