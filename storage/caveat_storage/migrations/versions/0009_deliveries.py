"""Messages to webhooks that are on their way, and when each webhook had its last turn."""

from alembic import op
from sqlalchemy import Column, DateTime

revision = "0009"
down_revision = "0008"

moment = DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("webhooks", Column("taken_at", moment))
    op.add_column("deliveries", Column("claimed_until", moment))
    op.create_index("ix_deliveries_claimed_until", "deliveries", ["claimed_until"])
