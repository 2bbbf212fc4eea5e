"""The log of what was asked and answered; which bytes are kept, and what holds them."""

import re
from datetime import UTC, datetime

from alembic import op
from sqlalchemy import JSON, BigInteger, Column, DateTime, ForeignKey, String, text

revision = "0003"
down_revision = "0002"

moment = DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "log",
        Column("tenant", String(64), primary_key=True),
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
        Column("at", moment, nullable=False),
        Column("what", String(32), nullable=False),
        Column("job_id", String(26)),
        Column("payload", JSON),
        Column("payload_digest", String(71), nullable=False),
        Column("previous", String(71), nullable=False),
        Column("digest", String(71), nullable=False),
    )
    op.create_index("ix_log_job_id", "log", ["job_id"])
    op.create_table(
        "heads",
        Column("tenant", String(64), primary_key=True),
        Column("length", BigInteger, nullable=False),
        Column("digest", String(71), nullable=False),
    )
    stored = op.create_table(
        "stored",
        Column("digest", String(71), primary_key=True),
        Column("touched_at", moment, nullable=False),
    )
    uses = op.create_table(
        "uses",
        Column("job_id", String(26), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        Column("digest", String(71), ForeignKey("stored.digest"), primary_key=True),
    )
    op.create_index("ix_uses_digest", "uses", ["digest"])
    op.create_table(
        "chores",
        Column("name", String(32), primary_key=True),
        Column("begun_at", moment, nullable=False),
    )
    op.create_table(
        "tallies",
        Column("what", String(32), primary_key=True),
        Column("count", BigInteger, nullable=False),
    )
    known, used = _what_is_there()
    now = datetime.now(UTC)
    op.bulk_insert(stored, [{"digest": digest, "touched_at": now} for digest in sorted(known)])
    op.bulk_insert(uses, [{"job_id": job, "digest": digest} for job, digest in sorted(used)])
    with op.batch_alter_table("blobs") as blobs:
        blobs.create_foreign_key("fk_blobs_digest", "stored", ["digest"], ["digest"])
        blobs.create_index("ix_blobs_digest", ["digest"])


def _what_is_there() -> tuple[set[str], set[tuple[str, str]]]:
    """The bytes that rows name, and which job names which: those of its tenant in its request, and its report."""
    connection = op.get_bind()
    owned = {(row.tenant, row.digest) for row in connection.execute(text("SELECT tenant, digest FROM blobs"))}
    jobs = connection.execute(text("SELECT id, tenant, CAST(payload AS TEXT) AS asked, report_digest FROM jobs"))
    used: set[tuple[str, str]] = set()
    for row in jobs:
        used |= {
            (row.id, digest)
            for digest in re.findall(r"sha256:[0-9a-f]{64}", row.asked)
            if (row.tenant, digest) in owned
        }
        used |= {(row.id, row.report_digest)} if row.report_digest else set()
    return {digest for _, digest in owned | used}, used
