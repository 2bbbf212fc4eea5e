"""A worker may make fetched bytes its job's tenant's: those whose digest a URL of the job names."""

from alembic import op
from sqlalchemy import text

revision = "0011"
down_revision = "0010"

WORKER = "caveat_worker"
GUARD = """
    BEGIN
      IF NOT caveat_is('caveat_worker') OR EXISTS (
           SELECT FROM jobs j WHERE j.tenant = NEW.tenant AND j.state = 'running'
              AND j.lease_token = left(encode(sha256(
                    convert_to(current_setting('caveat.lease', true), 'UTF8')), 'hex'), 26)
              AND strpos(j.payload::text, '#sha256=' || substr(NEW.digest, 8)) > 0)
      THEN RETURN NEW; END IF;
      PERFORM caveat_refuse('a worker gives a tenant only bytes that its job names by a URL');
    END"""


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    (schema,) = op.get_bind().execute(text("SELECT quote_ident(current_schema())")).one()
    op.execute(f"GRANT SELECT, INSERT, UPDATE (size, created_at) ON blobs TO {WORKER}")
    op.execute(
        f"CREATE OR REPLACE FUNCTION caveat_guard_blobs() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        f"SET search_path = {schema}, pg_temp AS $body${GUARD}$body$"
    )
    op.execute("REVOKE ALL ON FUNCTION caveat_guard_blobs() FROM PUBLIC")
    op.execute(
        "CREATE OR REPLACE TRIGGER caveat_guard BEFORE INSERT OR UPDATE ON blobs "
        "FOR EACH ROW EXECUTE FUNCTION caveat_guard_blobs()"
    )


def downgrade() -> None:
    """Leaves a worker what it had: to see which digests somebody uploaded."""
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute("DROP TRIGGER IF EXISTS caveat_guard ON blobs")
    op.execute("DROP FUNCTION IF EXISTS caveat_guard_blobs()")
    op.execute(f"REVOKE ALL ON blobs FROM {WORKER}")
    op.execute(f"GRANT SELECT (digest) ON blobs TO {WORKER}")
