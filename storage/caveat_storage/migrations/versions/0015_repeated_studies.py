"""Requests for studies that may be repeated: what their key is known by, and what links are made of beside the key."""

from alembic import op
from sqlalchemy import Column, String

revision = "0015"
down_revision = "0014"

COLUMNS = {"key_hash": 64, "fingerprint": 64, "salt": 32}
INDEX = "ix_studies_tenant_key_hash"


def upgrade() -> None:
    for name, length in COLUMNS.items():
        op.add_column("studies", Column(name, String(length)))
    op.create_index(INDEX, "studies", ["tenant", "key_hash"], unique=True)


def downgrade() -> None:
    """A repeated request makes a second study again."""
    op.drop_index(INDEX, "studies")
    for name in COLUMNS:
        op.drop_column("studies", name)
