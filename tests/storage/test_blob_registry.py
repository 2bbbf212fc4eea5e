"""Unreferenced bytes are deleted and referenced ones are not, also under concurrent uploads and jobs."""

from __future__ import annotations

import io
import os
import random
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from caveat_storage import blob_registry, job_records, job_state, retention
from caveat_storage.blob_registry import Collected
from caveat_storage.blobs import Blobs, digest_of
from caveat_storage.job_records import Database, migrate
from caveat_storage.job_state import GoneError
from caveat_storage.tables import blobs as owned_rows
from caveat_storage.tables import chores, stored, uses
from tests.storage.machine import OverDatabase

NOTHING, DAY = timedelta(0), timedelta(days=1)


@pytest.fixture
def blobs(database: Database, place: str) -> Blobs:
    return blob_registry.opened(place, database)


def digest(data: bytes) -> str:
    return digest_of(io.BytesIO(data))


def put(database: Database, blobs: Blobs, data: bytes, tenant: str | None = "acme") -> str:
    """The work of an upload."""
    blobs.put(io.BytesIO(data), digest(data))
    if tenant:
        job_records.own(database, tenant, digest(data), len(data))
    return digest(data)


def submit(database: Database, *sources: str, tenant: str = "acme") -> str:
    return job_state.submit(database, tenant, "audit", {}, sources=sources).record.id


def succeed(database: Database, blobs: Blobs, job_id: str, report: bytes) -> str:
    lease = job_state.claim(database, job_id, worker="w", lasts=DAY)
    assert lease is not None
    assert job_state.succeed(database, lease, {"outcome": "pass"}, put(database, blobs, report, None))
    return digest(report)


def test_bytes_may_take_longer_to_their_place_than_the_database_to_answer(postgresql: str) -> None:
    """As in a bucket, which copies some gigabytes within itself while the transaction waits."""
    migrate(postgresql)
    database, large = Database(postgresql, seconds=1), digest(b"large")
    with blob_registry.arrival(database, large):
        time.sleep(1.5)
    with database.reading() as connection:
        assert connection.scalars(select(stored.c.digest).where(stored.c.digest == large)).all() == [large]
    database.close()


class TestCollecting:
    def test_only_what_nothing_names_goes_and_only_after_a_while(self, database: Database, blobs: Blobs) -> None:
        owned, orphan = put(database, blobs, b"owned"), put(database, blobs, b"orphan", None)
        report = succeed(database, blobs, submit(database, owned), b"report")
        assert blob_registry.collect(database, blobs, unused_for=DAY) == Collected(0, 0, 0)
        assert set(blobs.digests()) == {owned, orphan, report}
        assert blob_registry.collect(database, blobs, unused_for=NOTHING) == Collected(1, 0, 0)
        assert set(blobs.digests()) == {owned, report}
        assert blob_registry.collect(database, blobs, unused_for=NOTHING) == Collected(0, 0, 0)
        assert put(database, blobs, b"orphan") == orphan
        assert blobs.read(orphan) == b"orphan"

    def test_bytes_that_the_database_does_not_know_have_their_while_too(self, database: Database, blobs: Blobs) -> None:
        Blobs(blobs.filesystem, blobs.root).put(io.BytesIO(b"x"), digest(b"x"))  # as after restoring a backup
        assert blob_registry.collect(database, blobs, unused_for=DAY) == Collected(0, 0, 1)
        assert blob_registry.collect(database, blobs, unused_for=DAY) == Collected(0, 0, 0)
        assert blob_registry.collect(database, blobs, unused_for=NOTHING) == Collected(1, 0, 0)
        assert list(blobs.digests()) == []

    def test_what_came_of_a_process_that_died_goes(
        self, database: Database, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blobs.filesystem.makedirs(f"{blobs.root}/incoming", exist_ok=True)
        blobs.filesystem.pipe_file(f"{blobs.root}/incoming/half", b"half of")
        assert blob_registry.collect(database, blobs, unused_for=NOTHING).broken == 0
        monkeypatch.setattr(blob_registry, "STALLED", -DAY)
        assert blob_registry.collect(database, blobs, unused_for=NOTHING).broken == 1
        assert blobs.filesystem.find(blobs.root) == []

    def test_bytes_that_cannot_be_deleted_stay_known(
        self, database: Database, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        orphan = put(database, blobs, b"orphan", None)
        with monkeypatch.context() as broken:
            broken.setattr(Blobs, "remove", lambda *_: (_ for _ in ()).throw(PermissionError()))
            with pytest.raises(PermissionError):
                blob_registry.collect(database, blobs, unused_for=NOTHING)
        assert blobs.exists(orphan)
        assert blob_registry.collect(database, blobs, unused_for=NOTHING).removed == 1


class TestNaming:
    """The database rejects a client that is so slow that its bytes were deleted."""

    @pytest.fixture
    def gone(self, database: Database, blobs: Blobs) -> str:
        orphan = put(database, blobs, b"orphan", None)
        assert blob_registry.collect(database, blobs, unused_for=NOTHING).removed == 1
        return orphan

    def test_by_an_upload(self, database: Database, gone: str) -> None:
        with pytest.raises(IntegrityError):
            job_records.own(database, "acme", gone, 6)
        assert job_records.owned(database, "acme", [gone]) == {}

    def test_by_a_job(self, database: Database, gone: str) -> None:
        with pytest.raises(GoneError):
            submit(database, gone)
        assert job_records.page(database, "acme", "audit", limit=1) == []

    def test_by_a_report(self, database: Database, blobs: Blobs, gone: str) -> None:
        job_id = submit(database)
        lease = job_state.claim(database, job_id, worker="w", lasts=DAY)
        assert lease is not None
        with pytest.raises(IntegrityError):
            job_state.succeed(database, lease, {"outcome": "pass"}, gone)
        put(database, blobs, b"orphan", None)
        assert job_state.succeed(database, lease, {"outcome": "pass"}, gone)

    def test_the_database_itself_holds_what_is_named(self, database: Database, blobs: Blobs) -> None:
        mine = put(database, blobs, b"mine")
        submit(database, put(database, blobs, b"read", None))
        for row in (mine, digest(b"read")):
            with pytest.raises(IntegrityError), database.writing() as connection:
                connection.execute(stored.delete().where(stored.c.digest == row))


def named(database: Database) -> set[str]:
    with database.reading() as connection:
        return set(connection.scalars(select(owned_rows.c.digest).union(select(uses.c.digest))))


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_collecting_beside_everybody_loses_nothing(database: Database, tmp_path: Path, seed: int) -> None:
    """A few blobs, many clients that upload, use and delete them, and two collectors without a grace period."""
    blobs = blob_registry.opened(str(tmp_path / "blobs"), database)
    contents = [os.urandom(8) for _ in range(4)]
    done, faults = threading.Event(), list[BaseException]()
    lost, removed, refused = list[str](), [0], [0]

    def bring(name: int) -> None:
        chance, tenant = random.Random(seed * 100 + name), f"t{name}"
        for _ in range(10):
            data = chance.choice(contents)
            blobs.put(io.BytesIO(data), digest(data))
            try:
                job_records.own(database, tenant, digest(data), len(data))
                job_id = submit(database, digest(data), tenant=tenant)
            except (IntegrityError, GoneError):
                refused[0] += 1  # the client has to upload them again
                continue
            if not blobs.exists(digest(data)) or blobs.read(digest(data)) != data:
                lost.append(job_id)
            job_state.cancel(database, tenant, "audit", job_id)
            retention.forget(database, before=job_records.now(), by="t", tenant=tenant)

    def gather() -> None:
        while not done.is_set():
            removed[0] += blob_registry.collect(database, blobs, unused_for=NOTHING).removed

    def guarded(action: threading.Thread | None, *arguments: int) -> None:
        try:
            gather() if action is None else bring(*arguments)
        except BaseException as fault:
            faults.append(fault)

    collecting = [threading.Thread(target=guarded, args=(None,)) for _ in range(2)]
    bringing = [threading.Thread(target=guarded, args=(threading.current_thread(), name)) for name in range(4)]
    for thread in collecting + bringing:
        thread.start()
    for thread in bringing:
        thread.join()
    done.set()
    for thread in collecting:
        thread.join()
    assert faults == []
    assert lost == []
    assert removed[0] > 0, "nothing was ever collected, so this showed nothing"
    assert all(blobs.exists(one) for one in named(database))


class Keeping(OverDatabase):
    """Random uploads, uses, deletions and collections with different grace periods: referenced bytes always exist."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs = blob_registry.opened(str(self.folder / "blobs"), self.database)

    CONTENT = st.sampled_from([b"a", b"b", b"c"])
    TENANT = st.sampled_from(["acme", "other"])

    @rule(data=CONTENT)
    def arrive(self, data: bytes) -> None:
        put(self.database, self.blobs, data, None)

    @rule(data=CONTENT, tenant=TENANT)
    def own(self, data: bytes, tenant: str) -> None:
        there = self.blobs.exists(digest(data))
        try:
            job_records.own(self.database, tenant, digest(data), 1)
        except IntegrityError:
            assert not there

    @rule(data=CONTENT, tenant=TENANT)
    def ask(self, data: bytes, tenant: str) -> None:
        if job_records.owned(self.database, tenant, [digest(data)]):
            submit(self.database, digest(data), tenant=tenant)

    @rule(data=CONTENT, tenant=TENANT)
    def answer(self, data: bytes, tenant: str) -> None:
        for record in job_records.page(self.database, tenant, "audit", limit=1, state="queued"):
            succeed(self.database, self.blobs, record.id, data)

    @rule(tenant=TENANT)
    def forget(self, tenant: str) -> None:
        retention.forget(self.database, before=job_records.now(), by="t", tenant=tenant)

    @rule(grace=st.sampled_from([NOTHING, DAY]))
    def collect(self, grace: timedelta) -> None:
        blob_registry.collect(self.database, self.blobs, unused_for=grace)

    @rule()
    def collect_and_look(self) -> None:
        self.collect(NOTHING)
        assert set(self.blobs.digests()) == named(self.database)

    @invariant()
    def what_is_named_is_there(self) -> None:
        assert named(self.database) <= set(self.blobs.digests())


Keeping.TestCase.settings = settings(
    max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestKeeping = Keeping.TestCase


def test_a_chore_is_begun_by_one_and_not_again_for_a_while(database: Database) -> None:
    found: list[bool] = []

    def begin(chore: str = "chore") -> bool:
        with job_records.due(database, chore, DAY) as begins:
            return begins

    threads = [threading.Thread(target=lambda: found.append(begin())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False] * 5 + [True]
    assert begin("other")
    with database.writing() as connection:
        connection.execute(text("UPDATE chores SET begun_at = :then"), {"then": job_records.now() - 2 * DAY})
    assert begin()
    assert not begin()


def test_a_chore_that_failed_is_due_again_soon(database: Database) -> None:
    """It counted as done for a whole interval."""

    def later(than: timedelta) -> None:
        with database.writing() as connection:
            (begun,) = connection.scalars(select(chores.c.begun_at))
            connection.execute(chores.update().values(begun_at=begun - than))

    def fail() -> bool:
        with suppress(ConnectionError), job_records.due(database, "chore", DAY) as begins:
            assert begins
            raise ConnectionError
        with job_records.due(database, "chore", DAY) as begins:
            return begins

    for _ in range(2):
        assert not fail()
        later(job_records.CHORE_AGAIN_AFTER)
    with job_records.due(database, "chore", DAY) as begins:
        assert begins
    later(job_records.CHORE_AGAIN_AFTER)
    with job_records.due(database, "chore", DAY) as begins:
        assert not begins
