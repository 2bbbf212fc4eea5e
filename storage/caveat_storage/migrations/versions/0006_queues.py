"""Jobs for some workers only."""

from alembic import op
from sqlalchemy import JSON, Column, String

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    # Defaults of the server's, since processes of the version before write rows while they are replaced.
    op.add_column("jobs", Column("queue", String(16), nullable=False, server_default="default"))
    op.add_column("workers", Column("queues", JSON, nullable=False, server_default='["default"]'))
