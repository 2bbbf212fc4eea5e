"""Damaged bytes are never used, are found by whoever reads them or by a pass, and heal when they arrive again."""

from __future__ import annotations

import errno
import io
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from caveat_spec.disk_faults import DiskError
from caveat_storage import blob_registry, job_records
from caveat_storage.blobs import Blobs, CorruptBytesError, digest_of
from caveat_storage.job_records import Database
from caveat_storage.scrub import DOUBT, scrub
from caveat_storage.tables import stored

DATA = b"genuine" * 300_000
DIGEST = digest_of(io.BytesIO(DATA))
DAY = timedelta(days=1)


@pytest.fixture
def blobs(database: Database, place: str) -> Blobs:
    opened = blob_registry.opened(place, database)
    opened.put(io.BytesIO(DATA), DIGEST)
    return opened


def swap(blobs: Blobs, digest: str = DIGEST, data: bytes = b"forged " * 300_000) -> None:
    """The work of somebody who can write to the store but not to the database."""
    (place,) = [path for path in blobs.filesystem.find(blobs.root) if path.endswith(digest.partition(":")[2])]
    blobs.filesystem.pipe_file(place, data)


@pytest.mark.parametrize("use", ["read", "open", "copy", "verify"])
def test_swapped_bytes_are_not_read_and_are_recorded(database: Database, blobs: Blobs, use: str) -> None:
    swap(blobs)
    with pytest.raises(CorruptBytesError, match=DIGEST) as raised:
        getattr(blobs, use)(*[DIGEST, io.BytesIO()][: 1 + (use == "copy")])
    assert raised.value.problem.type == "urn:caveat:problem:corrupt-bytes"
    assert blob_registry.is_damaged(database, DIGEST)
    assert blob_registry.count_damaged(database) == 1


def test_genuine_bytes_heal(database: Database, blobs: Blobs) -> None:
    swap(blobs)
    assert scrub(database, blobs).damaged == [DIGEST]
    blobs.put(io.BytesIO(DATA), DIGEST)
    assert not blob_registry.is_damaged(database, DIGEST)
    assert blobs.read(DIGEST) == DATA


def test_a_pass_tells_what_is_whole_damaged_and_missing(database: Database, blobs: Blobs) -> None:
    other, gone = b"other", b"gone"
    for data in (other, gone):
        blobs.put(io.BytesIO(data), digest_of(io.BytesIO(data)))
    swap(blobs)
    blobs.remove(digest_of(io.BytesIO(gone)))
    found = scrub(database, blobs)
    assert (found.verified, found.bytes) == (1, len(other))
    assert (found.damaged, found.missing) == ([DIGEST], [digest_of(io.BytesIO(gone))])
    assert blob_registry.count_damaged(database) == 2


def test_what_was_wrong_for_a_moment_only_is_right_again(database: Database, blobs: Blobs) -> None:
    swap(blobs)
    scrub(database, blobs)
    swap(blobs, data=DATA)  # the disk was put back
    assert scrub(database, blobs).verified == 1
    assert not blob_registry.is_damaged(database, DIGEST)


def test_a_slow_pass_takes_turns(database: Database, blobs: Blobs) -> None:
    """Bytes that were verified lately are left alone, and a pass that may read little goes on where it ended."""
    for number in range(3):
        data = b"%d" % number
        blobs.put(io.BytesIO(data), digest_of(io.BytesIO(data)))
    assert scrub(database, blobs, not_since=DAY).verified == 0
    seen = [scrub(database, blobs, most_bytes=1).bytes for _ in range(4)]
    assert sorted(seen) == [1, 1, 1, len(DATA)]


def test_a_database_that_is_away_does_not_hide_damage(database: Database, blobs: Blobs) -> None:
    swap(blobs)
    away = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    blind = blob_registry.opened(blobs.filesystem.unstrip_protocol(blobs.root), away)
    with pytest.raises(CorruptBytesError):
        blind.read(DIGEST)
    away.close()


class Unreadable(io.BytesIO):
    """A file of a disk that fails; `make faults` has a real one."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_bytes_that_a_disk_cannot_read_are_not_verified(
    database: Database, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read error was neither damage nor missing, and the blob counted as verified."""
    with monkeypatch.context() as patch:
        real = blobs.filesystem.open

        def opened(path: str, mode: str = "rb", **also: Any) -> Any:
            return Unreadable() if mode == "rb" else real(path, mode, **also)

        patch.setattr(blobs.filesystem, "open", opened)
        found = scrub(database, blobs)
        assert (found.verified, found.unreadable) == (0, [DIGEST])
        assert blob_registry.is_damaged(database, DIGEST)
        with pytest.raises(DiskError) as raised:
            blobs.read(DIGEST)
    assert raised.value.problem.code == "blobs-failing"
    assert "EIO" in raised.value.problem.detail
    assert scrub(database, blobs, not_since=DAY).verified == 0
    with database.writing() as connection:
        connection.execute(stored.update().values(verified_at=job_records.now() - 2 * DOUBT))
    assert scrub(database, blobs, not_since=DAY).verified == 1, "the disk was mended"
    assert not blob_registry.is_damaged(database, DIGEST)


def test_a_pass_that_the_store_interrupts_verifies_nothing(
    database: Database, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.writing() as connection:
        connection.execute(stored.update().values(verified_at=None))

    def away(*_: object, **__: object) -> None:
        raise ConnectionError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(type(blobs), "verify", away)
        with pytest.raises(ConnectionError):
            scrub(database, blobs, not_since=DAY)
    assert scrub(database, blobs, not_since=DAY).verified == 1


def test_a_disk_that_fails_as_a_whole_damages_no_blob(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every blob was recorded as damaged, and had to be uploaded again."""
    blobs = blob_registry.opened(str(tmp_path / "blobs"), database)
    blobs.put(io.BytesIO(DATA), DIGEST)
    with monkeypatch.context() as patch:
        patch.setattr(blobs.filesystem, "open", lambda *_, **__: Unreadable())  # for what is written as well
        with pytest.raises(DiskError, match="EIO"):
            scrub(database, blobs)
    assert blob_registry.count_damaged(database) == 0
    assert scrub(database, blobs).verified == 1
