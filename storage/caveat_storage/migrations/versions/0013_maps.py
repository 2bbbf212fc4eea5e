"""The file of maps beside a report: a second digest that a worker records with the report's, under the same guards."""

from importlib import import_module

from alembic import op
from sqlalchemy import Column, String, text

revision = "0013"
down_revision = "0012"

WORKER = "caveat_worker"
ROLES = import_module("caveat_storage.migrations.versions.0010_roles")
CHANGED = {
    "caveat_guard_jobs() RETURNS trigger": (
        (
            "NEW.report_digest IS NULL AND NEW.result IS NULL",
            "coalesce(NEW.report_digest, NEW.maps_digest) IS NULL AND NEW.result IS NULL",
        ),
        (
            "(NEW.result::text, NEW.report_digest) IS NOT DISTINCT FROM (OLD.result::text, OLD.report_digest)",
            "(NEW.result::text, NEW.report_digest, NEW.maps_digest) "
            "IS NOT DISTINCT FROM (OLD.result::text, OLD.report_digest, OLD.maps_digest)",
        ),
    ),
    "caveat_guard_uses() RETURNS trigger": (
        ("j.report_digest = NEW.digest", "NEW.digest IN (j.report_digest, j.maps_digest)"),
        ("only the report of a job", "only the report and the maps of a job"),
    ),
    "caveat_guard_log() RETURNS trigger": (
        (
            "j.report_digest IS NOT DISTINCT FROM NEW.payload ->> 'report_digest')",
            "j.report_digest IS NOT DISTINCT FROM NEW.payload ->> 'report_digest' "
            "AND j.maps_digest IS NOT DISTINCT FROM NEW.payload ->> 'maps_digest')",
        ),
    ),
}
"""What changes in the guards of migration 0010: wherever a report's digest is compared, so is that of its maps."""


def upgrade() -> None:
    op.add_column("jobs", Column("maps_digest", String(71)))
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(f"GRANT UPDATE (maps_digest) ON jobs TO {WORKER}")
    for head, changes in CHANGED.items():
        body = ROLES.FUNCTIONS[head]
        for before, after in changes:
            assert before in body, "the guards of 0010 are never changed"
            body = body.replace(before, after)
        _define(head, body)


def downgrade() -> None:
    """Takes the guards of 0010 back; the digests that are lost stand in the reports, and their bytes stay kept."""
    if op.get_bind().dialect.name == "postgresql":
        for head in CHANGED:
            _define(head, ROLES.FUNCTIONS[head])
    op.drop_column("jobs", "maps_digest")


def _define(head: str, body: str) -> None:
    (schema,) = op.get_bind().execute(text("SELECT quote_ident(current_schema())")).one()
    op.get_bind().exec_driver_sql(
        f"CREATE OR REPLACE FUNCTION {head} LANGUAGE plpgsql SECURITY DEFINER "
        f"SET search_path = {schema}, pg_temp AS $body${body}$body$"
    )
