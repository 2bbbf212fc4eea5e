"""When stored bytes were verified, and which are damaged."""

from alembic import op
from sqlalchemy import Column, DateTime

revision = "0007"
down_revision = "0006"

moment = DateTime(timezone=True)


def upgrade() -> None:
    for name in ("verified_at", "damaged_at"):
        op.add_column("stored", Column(name, moment))
        op.create_index(f"ix_stored_{name}", "stored", [name])
