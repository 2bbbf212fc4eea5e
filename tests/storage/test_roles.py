"""What the roles of the API and of a worker may do on a real PostgreSQL, and what it refuses to each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

import pytest
from sqlalchemy import Connection, func, make_url, select, text
from sqlalchemy.exc import DBAPIError
from standardwebhooks import Webhook

from caveat_spec.audit import Audit, Examples
from caveat_spec.audit_log import NOTHING
from caveat_spec.jobs import Division, Rows
from caveat_spec.problem import ProblemDetails
from caveat_spec.webhooks import OCCASIONS
from caveat_storage import (
    audit_log,
    blob_registry,
    hash_chain,
    job_records,
    job_state,
    keys,
    retention,
    scrub,
    shards,
    upgrade,
    webhooks,
)  # fmt: skip
from caveat_storage.blobs import Blobs
from caveat_storage.job_records import Database, Key, migrate, now
from caveat_storage.job_state import Lease
from caveat_storage.tables import jobs, metadata
from caveat_worker.jobs import tasks
from caveat_worker.jobs.settings import Settings
from caveat_worker.jobs.source_fetching import with_fetched_sources
from caveat_worker.jobs.supervisor import Divided
from tests.storage.conftest import empty
from tests.storage.test_job_records import fresh
from tests.worker import live

HOUR = timedelta(hours=1)
PROBLEM = ProblemDetails.of("not-onnx", 422, "This is not an ONNX file.", "Export it to ONNX.")
FORGED = f"sha256:{'f' * 64}"
PARTS = Division(rows=[[Rows(examples="x", start=n, stop=n + 1)] for n in range(3)], interacts=True)


@dataclass(frozen=True)
class Roles:
    """One database, as its owner, the API and a worker see it."""

    owner: Database
    api: Database
    worker: Database


@pytest.fixture(scope="module")
def place(postgresql: str) -> str:
    url = fresh(postgresql)
    migrate(url)
    upgrade.admit(url, {upgrade.API: as_role(url, "an_api"), upgrade.WORKER: as_role(url, "a_worker")})
    return url


@pytest.fixture
def roles(place: str) -> Iterator[Roles]:
    roles = Roles(Database(place), Database(as_role(place, "an_api")), Database(as_role(place, "a_worker")))
    empty(roles.owner)
    yield roles
    for database in (roles.owner, roles.api, roles.worker):
        database.close()


def as_role(url: str, name: str) -> str:
    return make_url(url).set(username=name, password="p").render_as_string(hide_password=False)


def submit(roles: Roles, tenant: str = "other", kind: str = "audit") -> str:
    return job_state.submit(roles.api, tenant, kind, {"model": "m"}).record.id  # type: ignore[arg-type]


def claim(roles: Roles, job_id: str, worker: str = "w") -> Lease:
    lease = job_state.claim(roles.worker, job_id, worker=worker, lasts=HOUR)
    assert lease is not None
    return lease


def report(roles: Roles, digest: str) -> str:
    with roles.worker.writing() as connection:
        blob_registry._register(connection, digest)
    return digest


@pytest.fixture
def victims(roles: Roles) -> dict[str, str]:
    """Another tenant's key, webhook and audits: ended, running and queued; and the lease of an audit of one's own."""
    keys.issue(roles.api, "other", "ci", ["read"])
    hook, secret = webhooks.register(roles.api, "other", "https://hook.example/credential", list(OCCASIONS))
    report(roles, digest := f"sha256:{'b' * 64}")
    job_records.own(roles.api, "other", digest, 1)
    ended = job_state.submit(roles.api, "other", "audit", {"model": "m"}, key=Key("k", "f")).record.id
    job_state.succeed(roles.worker, claim(roles, ended), {"outcome": "pass"}, report(roles, f"sha256:{'a' * 64}"))
    report(roles, FORGED)
    running, queued, divided = submit(roles), submit(roles), submit(roles)
    claim(roles, running, "another")
    shards.divide(roles.worker, claim(roles, divided, "another"), PARTS)
    mine = claim(roles, submit(roles, "acme"))
    with roles.owner.reading() as connection:
        seen = connection.execute(select(jobs.c.lease_token).where(jobs.c.id == running)).scalar_one()
    return {"ended": ended, "running": running, "queued": queued, "divided": divided, "hook": hook.id, "secret": secret,
            "mine": mine.job_id, "token": mine.token, "seen": seen, "forged": FORGED, "nothing": NOTHING}  # fmt: skip


ENTRY = """INSERT INTO log SELECT 'other', length + 1, now(), '{what}', :ended, '{payload}', :forged, digest, :forged
           FROM heads WHERE tenant = 'other'"""
NEW_JOB = """INSERT INTO jobs (id, tenant, kind, payload, state, stage, progress, attempts, cancel_requested,
             release_requested, available_at, created_at, updated_at, parent_id, report_digest)
             VALUES ('{id}', 'other', '{kind}', '{{"audit": {{"model": "m"}}}}', '{state}', 'done', 1, 1, false, false,
             now(), now(), now(), {parent}, {report})"""

Who = Literal["api", "worker"]
ATTACKS: dict[str, tuple[Who, str]] = {
    "make a key": (
        "worker",
        "INSERT INTO keys (id, tenant, name, secret_hash, scopes, created_at) "
        "VALUES ('k', 'other', 'k', 'h', '[\"admin\"]', now())",
    ),
    "give a key more scopes": ("worker", "UPDATE keys SET scopes = '[\"admin\"]'"),
    "read keys": ("worker", "SELECT secret_hash FROM keys"),
    "read a webhook's secret": ("worker", "SELECT secret FROM webhooks"),
    "read a webhook's old secret": ("worker", "SELECT old_secret FROM webhooks"),
    "read a webhook's URL": ("worker", "SELECT url FROM webhooks"),
    "send a webhook elsewhere": ("worker", "UPDATE webhooks SET url = 'https://mine.example'"),
    "read idempotency keys": ("worker", "SELECT key FROM idempotency"),
    "give a tenant bytes": ("worker", "INSERT INTO blobs VALUES ('other', :forged, 1, now())"),
    "give bytes another owner": ("worker", "UPDATE blobs SET tenant = 'acme'"),
    "change the size of an upload": ("worker", "UPDATE blobs SET size = 0"),
    "read an audit log": ("worker", "SELECT payload FROM log"),
    "rewrite the audit log": ("worker", "UPDATE log SET payload = '{}'"),
    "erase the audit log": ("worker", "UPDATE log SET payload = NULL"),
    "delete the audit log": ("worker", "DELETE FROM log"),
    "empty the audit log": ("worker", "TRUNCATE log"),
    "cut the end off the audit log": ("worker", "UPDATE heads SET length = length - 1 WHERE length > 0"),
    "begin an audit log anew": ("worker", "UPDATE heads SET length = 0, digest = :nothing"),
    "delete the head of an audit log": ("worker", "DELETE FROM heads"),
    "log that a job succeeded": ("worker", ENTRY.format(what="succeed", payload="{}")),
    "log that a key was issued": ("worker", ENTRY.format(what="issue_key", payload="{}")),
    "log that a webhook was disabled": ("worker", ENTRY.format(what="disable_webhook", payload="{}")),
    "log at another place": (
        "worker",
        "INSERT INTO log VALUES ('other', 99, now(), 'succeed', :ended, '{}', :forged, :forged, :forged)",
    ),
    "change an ended audit's report": ("worker", "UPDATE jobs SET report_digest = :forged WHERE id = :ended"),
    "change an ended audit's maps": ("worker", "UPDATE jobs SET maps_digest = :forged WHERE id = :ended"),
    "change an ended audit's outcome": ("worker", "UPDATE jobs SET result = '{}' WHERE id = :ended"),
    "run an ended audit again": ("worker", "UPDATE jobs SET state = 'queued' WHERE id = :ended"),
    "end a job of another worker": (
        "worker",
        "UPDATE jobs SET state = 'succeeded', report_digest = :forged WHERE id = :running",
    ),
    "fail a job of another worker": ("worker", "UPDATE jobs SET state = 'failed' WHERE id = :running"),
    "take a job from another worker": ("worker", "UPDATE jobs SET lease_token = 'mine' WHERE id = :running"),
    "put a job of another worker back": (
        "worker",
        "UPDATE jobs SET state = 'queued', lease_token = NULL WHERE id = :running",
    ),
    "let the lease of another worker end": ("worker", "UPDATE jobs SET lease_until = now() WHERE id = :running"),
    "show the token that the table has": (
        "worker",
        "WITH shown AS MATERIALIZED (SELECT set_config('caveat.lease', :seen, true)) "
        "UPDATE jobs SET state = 'failed' FROM shown WHERE id = :running",
    ),
    "show the lease of another job": (
        "worker",
        "WITH shown AS MATERIALIZED (SELECT set_config('caveat.lease', :token, true)) "
        "UPDATE jobs SET state = 'failed' FROM shown WHERE id = :running",
    ),
    "report while a job goes on": (
        "worker",
        "WITH shown AS MATERIALIZED (SELECT set_config('caveat.lease', :token, true)) "
        "UPDATE jobs SET report_digest = :forged FROM shown WHERE id = :mine",
    ),
    "leave maps while a job goes on": (
        "worker",
        "WITH shown AS MATERIALIZED (SELECT set_config('caveat.lease', :token, true)) "
        "UPDATE jobs SET maps_digest = :forged FROM shown WHERE id = :mine",
    ),
    "leave maps with a claim": (
        "worker",
        "UPDATE jobs SET state = 'running', attempts = attempts + 1, lease_token = 'x', maps_digest = :forged "
        "WHERE id = :queued",
    ),
    "log other maps than a job has": (
        "worker",
        """WITH shown AS MATERIALIZED (SELECT set_config('caveat.lease', :token, true)), ended AS (
             UPDATE jobs SET state = 'succeeded', maps_digest = :nothing FROM shown WHERE id = :mine RETURNING id)
           INSERT INTO log SELECT 'acme', length + 1, now(), 'succeed', ended.id,
             json_build_object('maps_digest', CAST(:forged AS text)), :forged, digest, :forged
             FROM heads, ended WHERE heads.tenant = 'acme'""",
    ),
    "report with a claim": (
        "worker",
        "UPDATE jobs SET state = 'running', attempts = attempts + 1, lease_token = 'x', report_digest = :forged "
        "WHERE id = :queued",
    ),
    "fail a queued job": ("worker", "UPDATE jobs SET state = 'failed' WHERE id = :queued"),
    "count shards that are not done": ("worker", "UPDATE jobs SET shards_left = 0 WHERE id = :divided"),
    "join shards that are not done": ("worker", "UPDATE jobs SET state = 'queued' WHERE id = :divided"),
    "end the audit of shards": ("worker", "UPDATE jobs SET state = 'failed' WHERE id = :divided"),
    "cancel a shard": ("worker", "UPDATE jobs SET state = 'cancelled' WHERE parent_id = :divided"),
    "change a request": ("worker", "UPDATE jobs SET payload = '{}' WHERE id = :queued"),
    "give a job to another tenant": ("worker", "UPDATE jobs SET tenant = 'acme' WHERE id = :ended"),
    "delete a job": ("worker", "DELETE FROM jobs WHERE id = :queued"),
    "submit a job": ("worker", NEW_JOB.format(id="j", kind="audit", state="queued", parent="NULL", report="NULL")),
    "submit a job that has ended": (
        "worker",
        NEW_JOB.format(id="j", kind="audit", state="succeeded", parent="NULL", report=":forged"),
    ),
    "add a shard": ("worker", NEW_JOB.format(id="j", kind="shard", state="queued", parent=":divided", report="NULL")),
    "write an event": (
        "worker",
        "INSERT INTO events (tenant, job_id, at, what, data) VALUES ('other', :ended, now(), 'succeed', '{}')",
    ),
    "rewrite an event": ("worker", "UPDATE events SET data = '{}'"),
    "delete events": ("worker", "DELETE FROM events"),
    "keep bytes for ever": ("worker", "INSERT INTO uses VALUES (:ended, :forged)"),
    "write a message to a webhook": (
        "worker",
        "INSERT INTO deliveries (id, webhook_id, type, job_id, body, state, attempts, due_at, created_at) VALUES "
        "('m', :hook, 'audit.failed', :ended, '{\"type\": \"audit.failed\"}', 'pending', 0, now(), now())",
    ),
    "change a message": ("worker", "UPDATE deliveries SET body = '{}'"),
    "delete a message": ("worker", "DELETE FROM deliveries"),
    "turn a guard off": ("worker", "ALTER TABLE jobs DISABLE TRIGGER caveat_guard"),
    "turn all guards off": ("worker", "SET session_replication_role = replica"),
    "replace a guard": (
        "worker",
        "CREATE OR REPLACE FUNCTION caveat_guard_events() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    ),
    "be the owner": ("worker", "SET ROLE postgres"),
    "be the API": ("worker", "SET ROLE caveat_api"),
    "rewrite the audit log as the API": ("api", "UPDATE log SET payload = '{}'"),
    "rewrite a digest of the audit log as the API": ("api", "UPDATE log SET digest = :forged"),
    "delete the audit log as the API": ("api", "DELETE FROM log"),
    "cut the end off the audit log as the API": ("api", "UPDATE heads SET length = length - 1 WHERE length > 0"),
    "forge maps as the API": ("api", "UPDATE jobs SET maps_digest = :forged WHERE id = :ended"),
    "forge a report as the API": ("api", "UPDATE jobs SET report_digest = :forged WHERE id = :ended"),
    "change a table as the API": ("api", "ALTER TABLE jobs ADD COLUMN mine text"),
}


def run(connection: Connection, statement: str, victims: dict[str, str]) -> int:
    named = {name: value for name, value in victims.items() if f":{name}" in statement}
    done = connection.execute(text(statement), named)
    return len(done.all()) if done.returns_rows else done.rowcount


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_role_is_refused_what_the_owner_of_the_tables_may(roles: Roles, victims: dict[str, str], attack: str) -> None:
    """Before roles, every process was the owner."""
    who, statement = ATTACKS[attack]
    with roles.owner.engine.connect() as connection:
        assert run(connection, statement, victims) != 0, "the attack has to hit something"
        connection.rollback()
    with pytest.raises(DBAPIError) as refused, getattr(roles, who).writing() as connection:
        run(connection, statement, victims)
    assert refused.value.orig.sqlstate == upgrade.PRIVILEGE, refused.value  # type: ignore[union-attr]


def test_a_table_of_ones_own_deceives_no_guard(roles: Roles, victims: dict[str, str]) -> None:
    """Guards run as the owner: they must not look where a worker can put tables."""
    with roles.worker.engine.connect() as connection:
        connection.execute(text("CREATE TEMP TABLE jobs (LIKE public.jobs)"))
        connection.execute(text("SET LOCAL search_path = pg_temp, public"))
        connection.execute(text("INSERT INTO pg_temp.jobs SELECT * FROM public.jobs"))
        with pytest.raises(DBAPIError, match="only steps that it takes"):
            run(connection, ATTACKS["write an event"][1].replace("events", "public.events"), victims)


def test_a_message_is_signed_only_for_who_claimed_it_and_without_the_secret(
    roles: Roles, victims: dict[str, str]
) -> None:
    with roles.worker.reading() as connection:
        row = connection.execute(text("SELECT id FROM deliveries")).one()
        guessed = select(func.count()).select_from(func.caveat_address(row.id, "", 0))
        assert connection.execute(guessed).scalar_one() == 0
    message = webhooks.take(roles.worker, lasts=HOUR)
    assert message is not None
    assert victims["secret"] not in repr(message)
    moment = now()
    address = webhooks.address(roles.worker, message, moment)
    assert address is not None
    assert address.url == "https://hook.example/credential"
    assert address.signatures == Webhook(victims["secret"]).sign(message.id, moment, message.body)
    assert webhooks.address(roles.owner, message, moment) == address
    fresh_secret = webhooks.rotate(roles.api, "other", victims["hook"])
    assert fresh_secret is not None
    both = webhooks.address(roles.worker, message, moment)
    assert both is not None
    assert both.signatures.split() == [
        Webhook(secret).sign(message.id, moment, message.body) for secret in (fresh_secret, victims["secret"])
    ]
    webhooks.arrived(roles.worker, message, "HTTP 200")
    assert webhooks.address(roles.worker, message, moment) is None


def test_a_worker_takes_every_step_of_the_jobs_that_it_holds(roles: Roles, tmp_path: Path) -> None:
    """The storage is the one that runs elsewhere as the owner: here each step is the role's."""
    w = roles.worker
    job_records.record_worker(w, "w", [], ["default"])
    webhooks.register(roles.api, "other", "https://hook.example", list(OCCASIONS))
    lease = claim(roles, submit(roles))
    assert job_state.heartbeat(w, lease) == "go_on"
    assert job_state.advance(w, lease, "testing", 0.5)
    assert job_state.release(w, lease)
    lease = claim(roles, lease.job_id)
    assert job_state.retry(w, lease, PROBLEM, attempts=3, backoff=timedelta(0))
    lease = claim(roles, lease.job_id)
    digest, maps = report(roles, f"sha256:{'a' * 64}"), report(roles, f"sha256:{'c' * 64}")
    assert job_state.succeed(w, lease, {"outcome": "pass"}, digest, maps)
    assert job_records.get(roles.api, "other", "audit", lease.job_id).maps_digest == maps  # type: ignore[union-attr]
    assert not job_state.fail(w, lease, PROBLEM)
    assert job_state.fail(w, claim(roles, submit(roles)), PROBLEM)
    stopped = claim(roles, submit(roles))
    job_state.cancel(roles.api, "other", "audit", stopped.job_id)
    assert job_state.heartbeat(w, stopped) == "cancel"
    assert job_state.stop(w, stopped)
    job_state.cancel(roles.api, "other", "audit", submit(roles))
    next_ = job_state.claim_next(w, worker="w", lasts=HOUR)
    assert next_ is None
    assert job_state.ask_to_release(w, "w") == 0
    moved = job_state.submit(roles.api, "other", "audit", {}, queue="gpu").record.id
    assert job_state.reroute(w, after=timedelta(0)) == [moved]
    assert list(job_state.unclaimed(w, published_before=None)) == [moved]
    webhooks.forget_old(w)
    message = webhooks.take(w, lasts=HOUR)
    assert message is not None
    assert webhooks.failed(w, message, "HTTP 410", attempts=1, backoff=HOUR, unwanted=True)
    blobs = blob_registry.opened(str(tmp_path), w)
    assert scrub.scrub(w, blobs).missing == [digest, maps]
    assert blob_registry.collect(w, blobs, unused_for=timedelta(0)).removed == 0
    account = hash_chain.account(audit_log.export(roles.api, "other"))
    assert account.reports == {lease.job_id: digest}
    assert account.steps["disable_webhook"] == 1
    assert retention.forget(roles.api, before=now() + HOUR, by="retention").jobs == 4
    assert hash_chain.account(audit_log.export(roles.api, "other")).erased > 0
    assert blob_registry.collect(w, blobs, unused_for=timedelta(0)).removed == 2
    assert retention.forget_tenant(roles.api, "other", by="operator").webhooks == 1


def test_a_worker_gives_a_tenant_only_what_its_job_names_by_a_url(roles: Roles) -> None:
    """And only within the quota; another tenant's job, or a digest that is no end of a URL, is no reason."""
    named, other = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    for digest in (named, other):
        report(roles, digest)
    said = f"as at https://models.example/b.onnx#sha256={'b' * 64}"  # a text that ends in a digest
    payload = {"model": f"https://models.example/a.onnx#sha256={'a' * 64}", "labels": other, "about": said}
    job = job_state.submit(roles.api, "acme", "audit", payload, sources={named}, to_fetch={named}).record.id
    lease = claim(roles, job)

    def own(tenant: str, digest: str, most: int = 0) -> None:
        with roles.worker.writing() as connection:
            job_state.show(connection, lease)
            job_records.own_within(connection, tenant, digest, 5, most=most)

    for tenant, digest in (("other", named), ("acme", other)):
        with pytest.raises(DBAPIError, match="only bytes that its job names"):
            own(tenant, digest)
    with pytest.raises(DBAPIError, match="only bytes that its job names"):
        job_records.own(roles.worker, "acme", named, 5)
    with pytest.raises(job_records.NoRoomError):
        own("acme", named, most=4)
    own("acme", named, most=5)
    own("acme", named, most=5)
    assert job_records.owned(roles.worker, "acme", [named, other]) == {named: 5}


def test_a_worker_takes_back_only_what_was_lost_by_the_clock_of_the_database(
    roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that lasts by that clock is not taken, whatever time it is at the worker."""
    lasting, lost = claim(roles, submit(roles)), submit(roles)
    assert job_state.claim(roles.worker, lost, worker="v", lasts=timedelta(0)) is not None
    assert job_state.expire(roles.worker, attempts=3, backoff=timedelta(0)) == [lost]
    again = job_state.claim(roles.worker, lost, worker="v", lasts=timedelta(0))
    assert again is not None
    assert job_state.expire(roles.worker, attempts=2, backoff=timedelta(0)) == [lost]
    assert job_state.heartbeat(roles.worker, lasting) == "go_on"


def divide(roles: Roles) -> tuple[str, list[str]]:
    """A divided audit and its shards."""
    audit = submit(roles)
    parts = shards.divide(roles.worker, claim(roles, audit), PARTS)
    assert len(parts) == 3
    return audit, parts


def test_shards_are_counted_and_joined_by_a_worker(roles: Roles) -> None:
    audit, parts = divide(roles)
    done = [shards.succeed(roles.worker, claim(roles, part), {"a": "d"}) for part in parts]
    assert done == [None, None, audit]
    assert job_state.succeed(roles.worker, claim(roles, audit), {}, report(roles, FORGED))
    assert list(shards.leftovers(roles.worker)) == [audit]


def test_shards_of_a_cancelled_audit_are_stopped_by_a_worker(roles: Roles) -> None:
    w = roles.worker
    audit, parts = divide(roles)
    assert shards.succeed(w, claim(roles, parts[0]), {"a": "d"}) is None
    running = claim(roles, parts[1])
    job_state.cancel(roles.api, "other", "audit", audit)
    shards.settle(w)
    shards.settle(w)
    assert job_state.heartbeat(w, running) == "cancel"
    assert job_state.stop(w, running)
    assert list(shards.leftovers(w)) == [audit]


def test_an_audit_fails_with_its_shard_by_a_worker(roles: Roles) -> None:
    audit, parts = divide(roles)
    job_state.fail(roles.worker, claim(roles, parts[0]), PROBLEM)
    shards.settle(roles.worker)
    record = job_records.get(roles.api, "other", "audit", audit)
    assert record is not None
    assert record.state == "failed"


def test_rights_are_granted_again_and_taken_back(postgresql: str) -> None:
    url = fresh(postgresql)
    migrate(url)
    upgrade.admit(url, {upgrade.WORKER: as_role(url, "a_worker")})
    upgrade.admit(url, {upgrade.WORKER: as_role(url, "a_worker")})
    owner, worker = Database(url), Database(as_role(url, "a_worker"))
    job_records.record_worker(worker, "w", [])
    for _ in range(2):
        migrate(url, "0009")
        with pytest.raises(DBAPIError, match="permission denied"):
            job_records.record_worker(worker, "w", [])
        job_records.record_worker(owner, "w", [])
        migrate(url)
        job_records.record_worker(worker, "w", [])
    with owner.reading() as connection:
        left = connection.execute(text("SELECT count(*) FROM pg_proc WHERE proname LIKE 'caveat%'")).scalar_one()
        assert left == 11
    owner.close()
    worker.close()


def test_every_table_says_what_the_api_and_a_worker_may(roles: Roles) -> None:
    """A migration that adds a table has to grant rights to it."""
    wanted = text("SELECT DISTINCT table_name FROM information_schema.column_privileges WHERE grantee = :role")
    with roles.owner.reading() as connection:
        api = set(connection.scalars(wanted, {"role": upgrade.API}))
        worker = set(connection.scalars(wanted, {"role": upgrade.WORKER}))
    assert api == metadata.tables.keys() | {"alembic_version"}
    assert metadata.tables.keys() - worker == {"answers", "idempotency", "keys", "raters", "tallies"}


def test_who_may_not_migrate_waits_for_who_may(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = fresh(postgresql)
    migrate(url, "0009")
    upgrade.admit(postgresql, {upgrade.API: as_role(url, "an_api")})
    monkeypatch.setattr(upgrade, "WAIT_SECONDS", 0)
    with pytest.raises(upgrade.NotMigratedError, match=r"caveat_storage\.upgrade"):
        upgrade.prepare(as_role(url, "an_api"))
    migrate(url)
    upgrade.prepare(as_role(url, "an_api"))


@pytest.mark.parametrize(
    ("arguments", "settings", "word"),
    [
        (["9999"], {}, "Can't locate revision"),
        ([], {"DATABASE_URL": "no-url"}, "Could not parse"),
        ([], {"DATABASE_URL": "postgresql+psycopg://a@127.0.0.1:1/b"}, "connection failed"),
        ([], {"API_DATABASE_URL": "postgresql+psycopg://api@host/b"}, "only PostgreSQL has roles"),
        ([], {"DATABASE_URL": "postgresql+psycopg://a@h/b", "WORKER_DATABASE_URL": "postgresql+psycopg://h/b"}, "name"),
    ],
)
def test_an_upgrade_that_cannot_be_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], settings: dict[str, str], word: str,
) -> None:  # fmt: skip
    for name, value in ({"DATABASE_URL": f"sqlite:///{tmp_path / 'caveat.db'}"} | settings).items():
        monkeypatch.setenv(f"CAVEAT_{name}", value)
    assert upgrade.main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("The database was not migrated: ")
    assert word in said


def test_an_audit_of_urls_is_divided_by_a_worker_and_its_shards_know_digests(
    roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in (live.MODEL, live.TABLE):
        report(roles, live.digest(data))
        job_records.own(roles.api, "other", live.digest(data), len(data))
    url = f"https://models.example/a.onnx#sha256={live.digest(live.MODEL).partition(':')[2]}"
    audit = job_state.submit(roles.api, "other", "audit", live.audit() | {"model": url}).record.id
    monkeypatch.setattr(tasks, "database", lambda: roles.worker)
    monkeypatch.setattr(tasks, "blobs", lambda: Blobs.at(str(tmp_path)))
    monkeypatch.setattr(tasks, "supervise", lambda *_, **__: Divided(PARTS))  # the child's answer alone matters
    monkeypatch.setattr(tasks, "publish", lambda *_: None)
    assert tasks.run(claim(roles, audit)) == "divided"
    with roles.owner.reading() as connection:
        parts = connection.scalars(select(jobs.c.id).where(jobs.c.parent_id == audit)).all()
    assert len(parts) == 3
    shard = claim(roles, parts[0])
    assert shard.payload["audit"]["model"] == url
    fetched = with_fetched_sources(shard, roles.worker, Blobs.at(str(tmp_path)), Settings(), lambda: False)
    assert fetched.payload["audit"]["model"] == live.digest(live.MODEL)


def test_the_guard_knows_every_field_that_may_name_a_source() -> None:
    """A new field, or a new kind of examples, needs a migration that says so to PostgreSQL."""
    named = {f"$.{field}" for field in Audit.FILES} | {"$.compare.*.model"}
    kinds = [field for kind in get_args(get_args(Examples)[0]) for field in kind.SOURCES]
    named |= {f"$.examples{which}.{field}" for which in ("", ".*") for field in kinds}
    assert set(import_module("caveat_storage.migrations.versions.0012_sources").FIELDS) == named


def test_an_example_set_of_a_url_is_given_to_its_tenant(roles: Roles) -> None:
    digest = report(roles, f"sha256:{'a' * 64}")
    for payload in (
        {"examples": {"arrays": f"https://models.example/a.npy#sha256={'a' * 64}"}},
        {"audit": {"examples": {"x": {"table": f"https://models.example/a.csv#sha256={'a' * 64}"}}}},
        {"model": "m", "compare": {"next": {"model": f"https://models.example/b.onnx#sha256={'a' * 64}"}}},
    ):
        job = job_state.submit(roles.api, "acme", "examples", payload, sources={digest}, to_fetch={digest}).record.id
        lease = claim(roles, job)
        with roles.worker.writing() as connection:
            job_state.show(connection, lease)
            assert job_records.own_within(connection, "acme", digest, 5, most=0)
        job_state.fail(roles.worker, lease, PROBLEM)
        with roles.owner.writing() as connection:
            connection.execute(text("DELETE FROM blobs"))
