"""The tables of the database, the only place that holds the state of jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
    literal_column,
)
from sqlalchemy.types import TypeDecorator


class Moment(TypeDecorator[datetime]):
    """A point in time in UTC; SQLite does not store the zone, so it is added on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Converts to UTC for the database."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Restores the zone of a value from the database."""
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("queue", String(16), nullable=False, server_default="default"),
    Column("urgency", Integer, nullable=False, server_default="3"),
    Column("name", String(64)),
    Column("payload", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", String(16), nullable=False),
    Column("progress", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("result", JSON(none_as_null=True)),
    Column("report_digest", String(71)),
    Column("maps_digest", String(71)),
    Column("problem", JSON(none_as_null=True)),
    Column("cancel_requested", Boolean, nullable=False),
    Column("release_requested", Boolean, nullable=False),
    Column("traceparent", String(55)),
    Column("lease_owner", String(128)),
    Column("lease_token", String(26)),
    Column("lease_until", Moment),
    Column("available_at", Moment, nullable=False),
    Column(
        "rung_at", Moment, key="published_at"
    ),  # the column keeps its old name, so that versions can run side by side
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("parent_id", String(26)),
    Column("shards", Integer),
    Column("shards_left", Integer),
    Index(None, "tenant", "kind", "id"),
    Index(None, "parent_id"),
)
"""One row per job of any kind; `shards_left` is the counter of an audit that was divided, `urgency` is RFC 9218's."""

QUEUED = jobs.c.state == literal_column("'queued'")
RUNNING = jobs.c.state == literal_column("'running'")
"""Written out, since with a parameter a database could not tell that an index below has all of these rows."""

Index(
    "ix_jobs_queued", jobs.c.tenant, jobs.c.queue, jobs.c.urgency, jobs.c.id,
    sqlite_where=QUEUED, postgresql_where=QUEUED,
)  # fmt: skip
Index("ix_jobs_running", jobs.c.tenant, jobs.c.queue, sqlite_where=RUNNING, postgresql_where=RUNNING)

turns = Table(
    "turns",
    metadata,
    Column("pool", String(64), primary_key=True),
    Column("tenant", String(64), primary_key=True),
    Column("start", Float, nullable=False),
    Column("finish", Float, nullable=False),
)
"""The last turn of each tenant at the workers of a pool, in virtual time: see `caveat_storage.fair_queue`."""

events = Table(
    "events",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("job_id", String(26), nullable=False),
    Column("at", Moment, nullable=False),
    Column("what", String(32), nullable=False),
    Column("data", JSON, nullable=False),
    Index(None, "job_id", "seq"),
)
"""The events of each job, in order; rows are only added, and deleted with their job."""

log = Table(
    "log",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("what", String(32), nullable=False),
    Column("job_id", String(26)),
    Column("payload", JSON(none_as_null=True)),
    Column("payload_digest", String(71), nullable=False),
    Column("previous", String(71), nullable=False),
    Column("digest", String(71), nullable=False),
    Index(None, "job_id"),
)
"""The audit log, one hash chain per tenant; rows are only added, and payloads can be erased."""

heads = Table(
    "heads",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("length", BigInteger, nullable=False),
    Column("digest", String(71), nullable=False),
)
"""The end of each tenant's audit log. Appending locks its row, so two writers never follow the same entry."""

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("job_id", String(26), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Moment, nullable=False),
)
"""The job of each `Idempotency-Key`, written in the same transaction as the job."""

stored = Table(
    "stored",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("touched_at", Moment, nullable=False),
    Column("verified_at", Moment),
    Column("damaged_at", Moment),
    Index(None, "verified_at"),
    Index(None, "damaged_at"),
)
"""The stored bytes: when they last arrived, were last verified, and were found to be damaged.

Every row that uses bytes refers to this table, so the database itself prevents their deletion.
"""

uses = Table(
    "uses",
    metadata,
    Column("job_id", String(26), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("digest", String(71), ForeignKey("stored.digest"), primary_key=True),
    Index(None, "digest"),
)
"""The bytes that a job reads and, once it has succeeded, its report."""

blobs = Table(
    "blobs",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("digest", String(71), ForeignKey("stored.digest"), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("created_at", Moment, nullable=False),
    Index(None, "digest"),
)
"""The uploads of each tenant. To a tenant, a digest that it did not upload does not exist."""

tallies = Table(
    "tallies",
    metadata,
    Column("what", String(32), primary_key=True),
    Column("count", BigInteger, nullable=False),
)
"""Number of times that erased jobs took each step, so that a counter never decreases."""

chores = Table(
    "chores",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("begun_at", Moment, nullable=False),
)
"""Start time of each periodic chore, which any worker may do; serving a queue is recorded here too."""

workers = Table(
    "workers",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("seen_at", Moment, nullable=False),
    Column("missing_protections", JSON, nullable=False),
    Column("queues", JSON, nullable=False, server_default='["default"]'),
    Column("leaving", Boolean, nullable=False, server_default=false()),
)
"""Workers that are alive, the sandbox protections that their kernels lack, and the queues that they serve.

A worker that is leaving claims no more jobs.
"""

keys = Table(
    "keys",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("secret_hash", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
)
"""Bearer keys; only the hash of a secret is stored."""

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("url", String(2048), nullable=False),
    Column("events", JSON, nullable=False),
    Column("secret", String(64), nullable=False),
    Column("old_secret", String(64)),
    Column("old_until", Moment),
    Column("created_at", Moment, nullable=False),
    Column("answered_at", Moment),
    Column("taken_at", Moment),
    Column("disabled_at", Moment),
    Column("problem", JSON(none_as_null=True)),
    Index(None, "tenant", "id"),
)
"""Webhooks. Signing needs the secret itself, so it is stored in clear."""

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("webhook_id", String(26), ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("type", String(32), nullable=False),
    Column("job_id", String(26)),
    Column("body", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", Moment, nullable=False),
    Column("claimed_until", Moment),
    Column("token", String(26)),
    Column("answer", String(255)),
    Column("created_at", Moment, nullable=False),
    Index(None, "webhook_id", "id"),
    Index(None, "state", "due_at"),
    Index(None, "claimed_until"),
)
"""Messages to webhooks, written in the transaction that ends the audit; due again if their sender does not report."""

studies = Table(
    "studies",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("audit_id", String(26), nullable=False),
    Column("protocol", String(71), ForeignKey("stored.digest"), nullable=False),
    Column("material", String(71), ForeignKey("stored.digest"), nullable=False),
    Column("about", JSON, nullable=False),
    Column("tests", JSON, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("closed_at", Moment),
    Column("analysis_id", String(26)),
    Column("key_hash", String(64)),
    Column("fingerprint", String(64)),
    Column("salt", String(32)),
    Index(None, "tenant", "id"),
    Index(None, "protocol"),
    Index(None, "material"),
    Index(None, "tenant", "key_hash", unique=True),
)
"""Studies with people; `tests` are those of the report, `analysis_id` is the job that analyses a closed one.

Of a request's `Idempotency-Key` only the hash is stored: links are made of the key and the salt.
"""

raters = Table(
    "raters",
    metadata,
    Column("study_id", String(26), ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True),
    Column("rater", Integer, primary_key=True, autoincrement=False),
    Column("token_hash", String(64), nullable=False),
    Index(None, "token_hash", unique=True),
)
"""The raters of each study; of the secret in a link only the hash is stored."""

answers = Table(
    "answers",
    metadata,
    Column("study_id", String(26), ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True),
    Column("rater", Integer, primary_key=True, autoincrement=False),
    Column("task", Integer, primary_key=True, autoincrement=False),
    Column("image", Integer, nullable=False),
    Column("concept", Integer, nullable=False),
    Column("confidence", Integer, nullable=False),
    Column("at", Moment, nullable=False),
)
"""What raters answered; rows are only added, and deleted with their study."""

measures = Table(
    "measures",
    metadata,
    Column("metric", String(16), primary_key=True),
    Column("label", String(16), primary_key=True),
    Column("bound", String(16), primary_key=True),
    Column("times", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
)
"""Counters and durations for metrics, which only grow: outcomes of audits and times of their stages."""
