"""Bytes by their digest are stored completely or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from unittest.mock import Mock

import pytest

from caveat_storage.blobs import Blobs, WrongDigestError, digest_of

DATA = b"many bytes" * 300_000
DIGEST = digest_of(io.BytesIO(DATA))


@pytest.fixture
def blobs(place: str) -> Blobs:
    return Blobs.at(place)


def everything(blobs: Blobs) -> list[str]:
    return [path for path in blobs.filesystem.find(blobs.root) if not blobs.filesystem.isdir(path)]


def test_what_is_put_in_comes_out(blobs: Blobs, tmp_path: Path) -> None:
    assert not blobs.exists(DIGEST)
    assert blobs.put(io.BytesIO(DATA), DIGEST) == len(DATA)
    assert blobs.put(io.BytesIO(DATA), DIGEST) == len(DATA)
    assert blobs.exists(DIGEST)
    assert blobs.size(DIGEST) == len(DATA)
    assert blobs.read(DIGEST) == DATA
    with blobs.open(DIGEST) as stream:
        assert stream.read() == DATA
    copy = io.BytesIO()
    blobs.copy(DIGEST, copy)
    assert copy.getvalue() == DATA
    assert len(everything(blobs)) == 1


def test_other_bytes_than_announced_are_not_kept(blobs: Blobs) -> None:
    with pytest.raises(WrongDigestError, match=digest_of(io.BytesIO(b"other"))):
        blobs.put(io.BytesIO(b"other"), DIGEST)
    assert everything(blobs) == []


def test_an_upload_that_breaks_off_is_never_visible(blobs: Blobs) -> None:
    class BreaksOff(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert not blobs.exists(DIGEST)
            if self.tell() > len(DATA) // 2:
                raise ConnectionResetError
            return super().read(size)

    with pytest.raises(ConnectionResetError):
        blobs.put(BreaksOff(DATA), DIGEST)
    assert everything(blobs) == []


def test_whether_a_byte_can_be_kept(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert blobs.fault() is None
    assert everything(blobs) == []
    for error, code in ((PermissionError(), "blobs-denied"), (RuntimeError("a library's own"), "blobs-away")):
        monkeypatch.setattr(blobs.filesystem, "pipe_file", Mock(side_effect=error))
        assert blobs.fault() == code
