"""A fair queue: urgency within a tenant, turns among tenants, and workers that take no more jobs."""

from alembic import op
from sqlalchemy import Boolean, Column, Float, Integer, String, false, text

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("jobs", Column("urgency", Integer, nullable=False, server_default="3"))
    op.add_column("workers", Column("leaving", Boolean, nullable=False, server_default=false()))
    queued = text("state = 'queued'")
    op.create_index(
        "ix_jobs_queued", "jobs", ["tenant", "queue", "urgency", "id"], sqlite_where=queued, postgresql_where=queued
    )
    # With it, SQLite would search the whole queue for the jobs that may start.
    op.drop_index("ix_jobs_state_available_at", "jobs")
    running = text("state = 'running'")
    op.create_index("ix_jobs_running", "jobs", ["tenant", "queue"], sqlite_where=running, postgresql_where=running)
    op.create_table(
        "turns",
        Column("pool", String(64), primary_key=True),
        Column("tenant", String(64), primary_key=True),
        Column("start", Float, nullable=False),
        Column("finish", Float, nullable=False),
    )
