"""The tables. The state of every job is here and nowhere else; the broker only rings the bell."""

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
)
from sqlalchemy.types import TypeDecorator


class Moment(TypeDecorator[datetime]):
    """A point in time, in UTC; SQLite forgets the zone, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """From the database."""
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
    Column("name", String(64)),
    Column("payload", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", String(16), nullable=False),
    Column("progress", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("result", JSON(none_as_null=True)),
    Column("report_digest", String(71)),
    Column("problem", JSON(none_as_null=True)),
    Column("cancel_requested", Boolean, nullable=False),
    Column("release_requested", Boolean, nullable=False),
    Column("traceparent", String(55)),
    Column("lease_owner", String(128)),
    Column("lease_token", String(26)),
    Column("lease_until", Moment),
    Column("available_at", Moment, nullable=False),
    Column("rung_at", Moment),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("parent_id", String(26)),
    Column("shards", Integer),
    Column("shards_left", Integer),
    Index(None, "tenant", "kind", "id"),
    Index(None, "state", "available_at"),
    Index(None, "parent_id"),
)
"""One row for each piece of work, of all four kinds; `shards_left` is the counter of an audit that was divided."""

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
"""What happened to each job, in order; rows are only ever added."""

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
"""What was asked and answered, a chain for each tenant; rows are only ever added, and payloads erased."""

heads = Table(
    "heads",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("length", BigInteger, nullable=False),
    Column("digest", String(71), nullable=False),
)
"""Where each tenant's log ends. Whoever adds to a log holds its row, so that two writers never follow one entry."""

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("job_id", String(26), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Moment, nullable=False),
)
"""Which job an `Idempotency-Key` stands for, written in the same transaction as the job."""

stored = Table(
    "stored",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("touched_at", Moment, nullable=False),
)
"""Which bytes are kept. Every row that names bytes refers to this one, so the database itself keeps them from going."""

uses = Table(
    "uses",
    metadata,
    Column("job_id", String(26), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("digest", String(71), ForeignKey("stored.digest"), primary_key=True),
    Index(None, "digest"),
)
"""Which bytes a job reads and, once it succeeded, which report it gave."""

blobs = Table(
    "blobs",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("digest", String(71), ForeignKey("stored.digest"), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("created_at", Moment, nullable=False),
    Index(None, "digest"),
)
"""Who put in which bytes. A digest that a tenant did not upload does not exist for that tenant."""

tallies = Table(
    "tallies",
    metadata,
    Column("what", String(32), primary_key=True),
    Column("count", BigInteger, nullable=False),
)
"""How often each step was taken by jobs that were erased, so that a count never falls."""

chores = Table(
    "chores",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("begun_at", Moment, nullable=False),
)
"""When what is done now and then, by whichever worker comes first, was begun last; serving a queue is such a thing."""

workers = Table(
    "workers",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("seen_at", Moment, nullable=False),
    Column("missing_protections", JSON, nullable=False),
    Column("queues", JSON, nullable=False, server_default='["default"]'),
)
"""Workers that are alive, what their kernels cannot do for the sandbox, and the queues that they serve."""

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
"""Bearer keys; of a secret only its hash is kept."""

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
    Column("disabled_at", Moment),
    Column("problem", JSON(none_as_null=True)),
    Index(None, "tenant", "id"),
)
"""Who is told when an audit ends. A secret has to be known to sign with it, so it stands here as it is."""

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
    Column("token", String(26)),
    Column("answer", String(255)),
    Column("created_at", Moment, nullable=False),
    Index(None, "webhook_id", "id"),
    Index(None, "state", "due_at"),
)
"""Messages to webhooks, written in the transaction that ended the audit; due again when whoever sends one is silent."""

measures = Table(
    "measures",
    metadata,
    Column("metric", String(16), primary_key=True),
    Column("label", String(16), primary_key=True),
    Column("bound", String(16), primary_key=True),
    Column("times", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
)
"""Counts and times that only grow, for metrics: how audits ended, how long their stages took."""
