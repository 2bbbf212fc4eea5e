"""Who is told when an audit ends, and what became of the messages; which trace a job goes on with; counts."""

from alembic import op
from sqlalchemy import JSON, BigInteger, Column, DateTime, Float, ForeignKey, Integer, String, Text

revision = "0004"
down_revision = "0003"

moment = DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("jobs", Column("traceparent", String(55)))
    op.create_table(
        "webhooks",
        Column("id", String(26), primary_key=True),
        Column("tenant", String(64), nullable=False),
        Column("url", String(2048), nullable=False),
        Column("events", JSON, nullable=False),
        Column("secret", String(64), nullable=False),
        Column("old_secret", String(64)),
        Column("old_until", moment),
        Column("created_at", moment, nullable=False),
        Column("answered_at", moment),
        Column("disabled_at", moment),
        Column("problem", JSON),
    )
    op.create_index("ix_webhooks_tenant_id", "webhooks", ["tenant", "id"])
    op.create_table(
        "deliveries",
        Column("id", String(26), primary_key=True),
        Column("webhook_id", String(26), ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
        Column("type", String(32), nullable=False),
        Column("job_id", String(26)),
        Column("body", Text, nullable=False),
        Column("state", String(16), nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("due_at", moment, nullable=False),
        Column("token", String(26)),
        Column("answer", String(255)),
        Column("created_at", moment, nullable=False),
    )
    op.create_index("ix_deliveries_webhook_id_id", "deliveries", ["webhook_id", "id"])
    op.create_index("ix_deliveries_state_due_at", "deliveries", ["state", "due_at"])
    op.create_table(
        "measures",
        Column("metric", String(16), primary_key=True),
        Column("label", String(16), primary_key=True),
        Column("bound", String(16), primary_key=True),
        Column("times", BigInteger, nullable=False),
        Column("seconds", Float, nullable=False),
    )
