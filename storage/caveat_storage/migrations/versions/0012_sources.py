"""Where a job names bytes by a URL: in the fields of its sources, and not in any text of its request."""

from alembic import op
from sqlalchemy import text

revision = "0012"
down_revision = "0011"

FIELDS = (
    "$.model", "$.gradient", "$.labels", "$.random_labels", "$.compare.*.model",
    *(f"$.examples{which}.{field}"
      for which in ("", ".*") for field in ("images", "annotations", "arrays", "table", "text", "tokenizer")),
)  # fmt: skip
"""Where the sources of an audit or of one example set are; those of a shard are in its audit."""
ANYWHERE = "strpos(j.payload::text, '#sha256=' || substr(NEW.digest, 8)) > 0"
IN_A_SOURCE = f"""EXISTS (
                SELECT FROM unnest(ARRAY{list(FIELDS)}::jsonpath[]) AS field,
                       jsonb_path_query(coalesce(j.payload::jsonb -> 'audit', j.payload::jsonb), field) AS source
                 WHERE jsonb_typeof(source) = 'string'
                   AND right(source #>> '{{}}', 72) = '#sha256=' || substr(NEW.digest, 8))"""
GUARD = """
    BEGIN
      IF NOT caveat_is('caveat_worker') OR EXISTS (
           SELECT FROM jobs j WHERE j.tenant = NEW.tenant AND j.state = 'running'
              AND j.lease_token = left(encode(sha256(
                    convert_to(current_setting('caveat.lease', true), 'UTF8')), 'hex'), 26)
              AND {named})
      THEN RETURN NEW; END IF;
      PERFORM caveat_refuse('a worker gives a tenant only bytes that its job names by a URL');
    END"""


def upgrade() -> None:
    _guard(IN_A_SOURCE)


def downgrade() -> None:
    _guard(ANYWHERE)


def _guard(named: str) -> None:
    """Replaces the function of the trigger that migration 0011 made."""
    if op.get_bind().dialect.name != "postgresql":
        return
    (schema,) = op.get_bind().execute(text("SELECT quote_ident(current_schema())")).one()
    op.get_bind().exec_driver_sql(
        f"CREATE OR REPLACE FUNCTION caveat_guard_blobs() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        f"SET search_path = {schema}, pg_temp AS $body${GUARD.format(named=named)}$body$"
    )
