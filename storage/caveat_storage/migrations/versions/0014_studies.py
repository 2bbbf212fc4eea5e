"""Studies with people: what they are about, who may answer, and what was answered, which no role may change."""

from importlib import import_module

from alembic import op
from sqlalchemy import JSON, Column, DateTime, ForeignKey, Integer, String, text

revision = "0014"
down_revision = "0013"

ROLES = import_module("caveat_storage.migrations.versions.0010_roles")
GRANTS = {
    ROLES.API: {
        "studies": "SELECT, INSERT, DELETE, UPDATE (updated_at, closed_at, analysis_id)",
        "raters": "SELECT, INSERT",
        "answers": "SELECT, INSERT",
    },
    ROLES.WORKER: {"studies": "SELECT (protocol, material)"},
}
"""Nobody changes an answer; they go with their study, by a rule of the tables. A worker sees which bytes are in use."""

moment = DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "studies",
        Column("id", String(26), primary_key=True),
        Column("tenant", String(64), nullable=False),
        Column("audit_id", String(26), nullable=False),
        Column("protocol", String(71), ForeignKey("stored.digest"), nullable=False),
        Column("material", String(71), ForeignKey("stored.digest"), nullable=False),
        Column("about", JSON, nullable=False),
        Column("tests", JSON, nullable=False),
        Column("created_at", moment, nullable=False),
        Column("updated_at", moment, nullable=False),
        Column("closed_at", moment),
        Column("analysis_id", String(26)),
    )
    for columns in (["tenant", "id"], ["protocol"], ["material"]):
        op.create_index(f"ix_studies_{'_'.join(columns)}", "studies", columns)
    op.create_table(
        "raters",
        _study(),
        Column("rater", Integer, primary_key=True, autoincrement=False),
        Column("token_hash", String(64), nullable=False),
    )
    op.create_index("ix_raters_token_hash", "raters", ["token_hash"], unique=True)
    op.create_table(
        "answers",
        _study(),
        Column("rater", Integer, primary_key=True, autoincrement=False),
        Column("task", Integer, primary_key=True, autoincrement=False),
        Column("image", Integer, nullable=False),
        Column("concept", Integer, nullable=False),
        Column("confidence", Integer, nullable=False),
        Column("at", moment, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        for role, tables in GRANTS.items():
            for table, rights in tables.items():
                op.execute(f"GRANT {rights} ON {table} TO {role}")


def downgrade() -> None:
    """Drops the tables while they are empty: answers of people cannot be had again."""
    if op.get_bind().execute(text("SELECT count(*) FROM studies")).scalar_one():
        raise RuntimeError("There are studies, and the older schema cannot hold them: delete them first")
    for table in ("answers", "raters", "studies"):
        op.drop_table(table)


def _study() -> Column[str]:
    return Column("study_id", String(26), ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True)
