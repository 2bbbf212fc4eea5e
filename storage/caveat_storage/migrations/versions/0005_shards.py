"""Audits cut into pieces that any worker takes."""

from alembic import op
from sqlalchemy import Column, Integer, String

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("jobs", Column("parent_id", String(26)))
    op.add_column("jobs", Column("shards", Integer))
    op.add_column("jobs", Column("shards_left", Integer))
    op.create_index("ix_jobs_parent_id", "jobs", ["parent_id"])
