"""The log of what was asked and answered."""

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    pass
