"""Interrupted and resumed uploads: in a folder, in memory, and in a bucket."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from datetime import timedelta

import pytest

from caveat_storage.blobs import Blobs, WrongDigestError, digest_of
from caveat_storage.uploads import OtherOffsetError, TooManyPiecesError, Uploads

DATA = os.urandom(9 << 20)
DIGEST = digest_of(io.BytesIO(DATA))


class BreaksOff(io.BytesIO):
    """A connection that breaks after its bytes were read."""

    def read(self, size: int | None = -1) -> bytes:
        if not (chunk := super().read(size)):
            raise ConnectionResetError
        return chunk


@pytest.fixture
def uploads(place: str) -> Uploads:
    return Uploads(Blobs.at(place))


def kept(uploads: Uploads) -> list[str]:
    """The files of incomplete uploads."""
    return [path for path in uploads.blobs.filesystem.find(uploads.blobs.root) if "/uploads/" in path]


def breaks_off(uploads: Uploads, begin: int, end: int, tenant: str = "a") -> None:
    with pytest.raises(ConnectionResetError):
        uploads.append(tenant, DIGEST, begin, BreaksOff(DATA[begin:end]), complete=True)


def test_what_comes_at_once_becomes_the_blob(uploads: Uploads) -> None:
    assert uploads.reached("a", DIGEST) == 0
    assert uploads.append("a", DIGEST, 0, io.BytesIO(DATA), complete=True) == len(DATA)
    assert uploads.blobs.read(DIGEST) == DATA
    assert kept(uploads) == []


def test_an_upload_goes_on_where_it_broke_off(uploads: Uploads) -> None:
    first, second = 3 << 20, (5 << 20) + 17
    breaks_off(uploads, 0, first)
    assert uploads.reached("a", DIGEST) == first
    assert not uploads.blobs.exists(DIGEST)
    breaks_off(uploads, first, second)
    assert uploads.reached("a", DIGEST) == second
    assert uploads.append("a", DIGEST, second, io.BytesIO(DATA[second:]), complete=True) == len(DATA)
    assert uploads.blobs.read(DIGEST) == DATA
    assert kept(uploads) == []


def test_parts_may_be_sent_on_purpose(uploads: Uploads) -> None:
    assert uploads.append("a", DIGEST, 0, io.BytesIO(DATA[:100]), complete=False) == 100
    assert uploads.append("a", DIGEST, 100, io.BytesIO(DATA[100:]), complete=False) == len(DATA)
    assert not uploads.blobs.exists(DIGEST)
    assert uploads.append("a", DIGEST, len(DATA), io.BytesIO(b""), complete=True) == len(DATA)
    assert uploads.blobs.read(DIGEST) == DATA


def test_another_offset_than_the_one_that_is_kept_is_refused(uploads: Uploads) -> None:
    breaks_off(uploads, 0, 1000)
    for offset in (0, 999, 1001):
        with pytest.raises(OtherOffsetError, match="1000 bytes of this upload are stored") as caught:
            uploads.append("a", DIGEST, offset, io.BytesIO(DATA[offset:]), complete=True)
        assert caught.value.expected == 1000
    assert uploads.reached("a", DIGEST) == 1000


def test_nobody_goes_on_with_what_another_tenant_sent(uploads: Uploads) -> None:
    breaks_off(uploads, 0, 1000, tenant="a")
    assert uploads.reached("b", DIGEST) == 0
    with pytest.raises(OtherOffsetError):
        uploads.append("b", DIGEST, 1000, io.BytesIO(DATA[1000:]), complete=True)


def test_wrong_bytes_are_refused_though_another_tenant_has_the_right_ones(uploads: Uploads) -> None:
    """Otherwise, knowing a digest would give access to its bytes by sending any others."""
    uploads.append("a", DIGEST, 0, io.BytesIO(DATA), complete=True)
    with pytest.raises(WrongDigestError):
        uploads.append("b", DIGEST, 0, io.BytesIO(b"other"), complete=True)
    uploads.append("b", DIGEST, 0, io.BytesIO(b"other"), complete=False)
    with pytest.raises(WrongDigestError):
        uploads.append("b", DIGEST, 5, io.BytesIO(DATA[5:]), complete=True)
    assert uploads.reached("b", DIGEST) == 0
    assert kept(uploads) == []


def test_a_request_that_goes_on_after_it_was_given_up_does_no_harm(uploads: Uploads) -> None:
    class Slow(io.BytesIO):
        """The client abandoned a request after 1000 bytes and sent all again; then the rest of the first arrives."""

        def read(self, size: int | None = -1) -> bytes:
            if self.tell() == 1000:
                breaks_off(uploads, uploads.reached("a", DIGEST), 5000)
                return super().read(1000)
            return super().read(1000) if self.tell() == 0 else b""

    uploads.append("a", DIGEST, 0, Slow(DATA), complete=False)
    assert uploads.reached("a", DIGEST) == 5000
    uploads.append("a", DIGEST, 5000, io.BytesIO(DATA[5000:]), complete=True)
    assert uploads.blobs.read(DIGEST) == DATA


def test_the_slower_of_two_requests_starts_again(uploads: Uploads) -> None:
    class Overtaken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() == 0:
                begin = uploads.reached("a", DIGEST)
                uploads.append("a", DIGEST, begin, io.BytesIO(DATA[begin:]), complete=True)
            return super().read(size)

    with suppress(OtherOffsetError):  # in a bucket neither request sees the other, and both succeed
        uploads.append("a", DIGEST, 0, Overtaken(DATA), complete=True)
    assert uploads.blobs.read(DIGEST) == DATA
    assert kept(uploads) == []


def test_there_are_so_many_pieces_and_no_more(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caveat_storage.uploads.MOST", 3)
    for begin in range(3):
        breaks_off(uploads, begin * 1000, (begin + 1) * 1000)
    with pytest.raises(TooManyPiecesError):
        uploads.append("a", DIGEST, 3000, io.BytesIO(DATA[3000:]), complete=True)
    assert uploads.reached("a", DIGEST) == 3000
    breaks_off(uploads, 0, 1000, tenant="b")


def test_what_nobody_goes_on_with_is_dropped(uploads: Uploads) -> None:
    breaks_off(uploads, 0, 1000)
    uploads.expire(timedelta(hours=1))
    assert uploads.reached("a", DIGEST) == 1000
    uploads.expire(timedelta(seconds=-1))
    assert uploads.reached("a", DIGEST) == 0
    assert kept(uploads) == []
