"""Bearer keys: whose, for what, until when; the secret itself is not kept."""

from alembic import op
from sqlalchemy import JSON, Column, DateTime, String

revision = "0002"
down_revision = "0001"

moment = DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "keys",
        Column("id", String(26), primary_key=True),
        Column("tenant", String(64), nullable=False),
        Column("name", String(64), nullable=False),
        Column("secret_hash", String(64), nullable=False),
        Column("scopes", JSON, nullable=False),
        Column("created_at", moment, nullable=False),
        Column("expires_at", moment),
        Column("revoked_at", moment),
    )
