"""The audit log in the database is complete under concurrent writers, and an export is a consistent snapshot."""

from __future__ import annotations

import multiprocessing
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select, text

from caveat_spec.problem import ProblemDetails
from caveat_storage import audit_log, blob_registry, hash_chain, job_state, keyring
from caveat_storage.hash_chain import Account, BrokenError
from caveat_storage.job_records import Database
from caveat_storage.tables import heads, log

HOUR = timedelta(hours=1)
REPORT = f"sha256:{'b' * 64}"
SERVICE = keyring.make()


def read_log(database: Database, tenant: str = "acme") -> Account:
    return hash_chain.account(
        audit_log.export(database, tenant, keyring.signers(SERVICE.private)), keyring.public_keys(SERVICE.public)
    )


def submit(database: Database, tenant: str = "acme") -> str:
    return job_state.submit(database, tenant, "audit", {"seed": 1}, name="n", by="key:1").record.id


def test_who_asked_for_what_and_what_came_of_it(database: Database) -> None:
    blob_registry.touch(database, REPORT)
    job_id = submit(database)
    lease = job_state.claim(database, job_id, worker="w", lasts=HOUR)
    assert lease is not None
    job_state.advance(database, lease, "testing", 0.5)
    assert job_state.succeed(database, lease, {"outcome": "fail"}, REPORT)
    job_state.cancel(database, "acme", "audit", submit(database), by="key:2")
    with database.reading() as connection:
        payloads = connection.scalars(select(audit_log.log.c.payload).order_by(audit_log.log.c.seq)).all()
    asked, ended, again, cancelled = ({**payload, "salt": len(payload["salt"])} for payload in payloads)
    request = {"request": hash_chain.digest({"seed": 1}), "sources": [], "name": "n", "kind": "audit"}
    assert asked == again == {**request, "by": "key:1", "salt": 32}
    assert ended == {"report_digest": REPORT, "outcome": "fail", "by": "w", "salt": 32}
    assert cancelled == {"by": "key:2", "salt": 32}
    account = read_log(database)
    assert account.steps == {"submit": 2, "succeed": 1, "cancel": 1}
    assert account.reports == {job_id: REPORT}
    assert read_log(database, "other").length == 0


def test_every_end_is_logged(database: Database) -> None:
    problem = ProblemDetails.of("x", 422, "It is wrong.", "Mend it.")
    for end in ("fail", "stop", "give_up"):
        job_id = submit(database)
        lease = job_state.claim(database, job_id, worker="w", lasts=-HOUR)
        assert lease is not None
        if end == "fail":
            job_state.fail(database, lease, problem)
        elif end == "stop":
            job_state.cancel(database, "acme", "audit", job_id)
            job_state.stop(database, lease)
        else:
            job_state.expire(database, attempts=1, backoff=HOUR)
    assert read_log(database).steps == {"submit": 3, "fail": 1, "ask_to_cancel": 1, "stop": 1, "give_up": 1}


def test_a_step_that_does_not_happen_is_not_logged(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = job_state.claim(database, submit(database), worker="w", lasts=HOUR)
    assert lease is not None
    with pytest.raises(job_state.IntegrityError):
        job_state.succeed(database, lease, {"outcome": "pass"}, f"sha256:{'c' * 64}")  # bytes that are not stored
    assert read_log(database).steps == {"submit": 1}
    assert job_state.heartbeat(database, lease) == "go_on"


def write(url: str, times: int) -> None:
    """The work of each of several processes: submit and cancel, for two tenants in turn."""
    database = Database(url)

    def alternate(first: int) -> None:
        for turn in range(times):
            tenant = ("acme", "other")[(first + turn) % 2]
            job_id = submit(database, tenant)
            job_state.cancel(database, tenant, "audit", job_id)

    threads = [threading.Thread(target=alternate, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.close()


def test_many_writers_make_one_chain(url: str, database: Database) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write, args=(url, 8)) for _ in range(3)]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        account = read_log(database)
        assert account.length >= seen
        seen = account.length
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    for tenant in ("acme", "other"):
        assert read_log(database, tenant).steps == {"submit": 36, "cancel": 36}


@pytest.mark.parametrize(
    "tampering",
    [
        'UPDATE log SET payload = \'{"outcome": "pass"}\' WHERE seq = 2',
        "UPDATE log SET what = 'fail' WHERE seq = 2",
        "UPDATE log SET payload = NULL WHERE seq = 2",
        "DELETE FROM log WHERE seq = 2",
        "DELETE FROM log WHERE seq = 4",
        "UPDATE log SET seq = 9 WHERE seq = 4",
        "UPDATE log SET tenant = 'other' WHERE seq = 4",
        "UPDATE log SET job_id = NULL WHERE seq = 1",
        "UPDATE heads SET length = 3",
    ],
)
def test_whoever_changes_the_database_is_found_out(database: Database, tampering: str) -> None:
    for _ in range(4):
        submit(database)
    assert read_log(database).length == 4
    with database.writing() as connection:
        connection.execute(text(tampering))
    with pytest.raises(BrokenError):
        read_log(database)


def test_what_is_erased_is_gone_and_the_chain_holds(database: Database) -> None:
    first, second, third = (submit(database) for _ in range(3))
    submit(database, "other")
    job_state.cancel(database, "acme", "audit", first)
    with database.writing() as connection:
        assert audit_log.erase(connection, "acme", log.c.job_id.in_([first, third]), {"by": "operator"}) == 3
    job_state.cancel(database, "acme", "audit", second)
    account = read_log(database)
    assert (account.length, account.erased) == (6, 3)
    with database.reading() as connection:
        left = connection.execute(select(audit_log.log).where(audit_log.log.c.payload.is_not(None))).all()
        assert connection.execute(select(heads.c.length).where(heads.c.tenant == "acme")).scalar_one() == 6
    assert [row.payload["entries"] for row in left if row.what == "erase"] == [[[1, 1], [3, 4]]]
    with database.writing() as connection:
        assert audit_log.erase(connection, "acme", log.c.job_id.in_([first]), {"by": "operator"}) == 0
    assert read_log(database).length == 7
