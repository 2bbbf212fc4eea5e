"""Jobs, their events and idempotency keys; who uploaded which bytes; which workers are alive."""

from alembic import op
from sqlalchemy import JSON, BigInteger, Boolean, Column, DateTime, Float, ForeignKey, Integer, String

revision = "0001"
down_revision = None

moment = DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "jobs",
        Column("id", String(26), primary_key=True),
        Column("tenant", String(64), nullable=False),
        Column("kind", String(16), nullable=False),
        Column("name", String(64)),
        Column("payload", JSON, nullable=False),
        Column("state", String(16), nullable=False),
        Column("stage", String(16), nullable=False),
        Column("progress", Float, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("result", JSON),
        Column("report_digest", String(71)),
        Column("problem", JSON),
        Column("cancel_requested", Boolean, nullable=False),
        Column("release_requested", Boolean, nullable=False),
        Column("lease_owner", String(128)),
        Column("lease_token", String(26)),
        Column("lease_until", moment),
        Column("available_at", moment, nullable=False),
        Column("rung_at", moment),
        Column("created_at", moment, nullable=False),
        Column("updated_at", moment, nullable=False),
    )
    op.create_index("ix_jobs_tenant_kind_id", "jobs", ["tenant", "kind", "id"])
    op.create_index("ix_jobs_state_available_at", "jobs", ["state", "available_at"])
    op.create_table(
        "events",
        Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("tenant", String(64), nullable=False),
        Column("job_id", String(26), nullable=False),
        Column("at", moment, nullable=False),
        Column("what", String(32), nullable=False),
        Column("data", JSON, nullable=False),
    )
    op.create_index("ix_events_job_id_seq", "events", ["job_id", "seq"])
    op.create_table(
        "idempotency",
        Column("tenant", String(64), primary_key=True),
        Column("key", String(255), primary_key=True),
        Column("fingerprint", String(64), nullable=False),
        Column("job_id", String(26), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        Column("created_at", moment, nullable=False),
    )
    op.create_table(
        "blobs",
        Column("tenant", String(64), primary_key=True),
        Column("digest", String(71), primary_key=True),
        Column("size", BigInteger, nullable=False),
        Column("created_at", moment, nullable=False),
    )
    op.create_table(
        "workers",
        Column("name", String(128), primary_key=True),
        Column("seen_at", moment, nullable=False),
        Column("missing_protections", JSON, nullable=False),
    )
