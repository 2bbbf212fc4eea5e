"""Roles of their own for the API and the workers: what each may do in PostgreSQL, as grants and as guards of rows.

SQLite has no roles: whoever opens the file has every right.
"""

from alembic import op
from sqlalchemy import text

revision = "0010"
down_revision = "0009"

API, WORKER = "caveat_api", "caveat_worker"

EVERY, ADDS, CHANGES = "SELECT, INSERT, UPDATE, DELETE", "SELECT, INSERT", "SELECT, INSERT, UPDATE"
GRANTS = {
    API: {
        "alembic_version": "SELECT",
        "blobs": EVERY,
        "chores": CHANGES,
        "deliveries": EVERY,
        "events": "SELECT, INSERT, DELETE",
        "heads": CHANGES,
        "idempotency": ADDS,
        "jobs": "SELECT, INSERT, DELETE, UPDATE (state, cancel_requested, updated_at)",
        "keys": CHANGES,
        "log": "SELECT, INSERT, UPDATE (payload)",
        "measures": CHANGES,
        "stored": EVERY,
        "tallies": CHANGES,
        "turns": "SELECT, DELETE",
        "uses": ADDS,
        "webhooks": EVERY,
        "workers": "SELECT",
    },
    WORKER: {
        "alembic_version": "SELECT",
        "blobs": "SELECT (digest)",
        "chores": CHANGES,
        "deliveries": "SELECT, INSERT, DELETE, UPDATE (state, attempts, due_at, claimed_until, token, answer)",
        "events": ADDS,
        "heads": CHANGES,
        "jobs": (
            "SELECT, INSERT, UPDATE (queue, state, stage, progress, attempts, result, report_digest, problem, "
            "cancel_requested, release_requested, lease_owner, lease_token, lease_until, available_at, rung_at, "
            "updated_at, shards, shards_left)"
        ),
        "log": "INSERT",
        "measures": CHANGES,
        "stored": EVERY,
        "turns": CHANGES,
        "uses": ADDS,
        "webhooks": (
            "SELECT (id, tenant, events, answered_at, taken_at, disabled_at), "
            "UPDATE (answered_at, taken_at, disabled_at, problem)"
        ),
        "workers": EVERY,
    },
}
"""What is not named here is refused: a worker has no right to `keys`, and none to a webhook's URL or secrets."""

GUARDED = {
    "jobs": "INSERT OR UPDATE",
    "events": "INSERT",
    "uses": "INSERT",
    "log": "INSERT OR UPDATE",
    "heads": "INSERT OR UPDATE",
    "deliveries": "INSERT OR DELETE",
}

# Functions run as the owner of the tables, find only the owner's tables, and know the caller by `session_user`.
# A lease is shown as `caveat.lease`; the table has only the hash of its token. Rows that the transaction wrote itself
# have its number as their `xmin`.
FUNCTIONS = {
    "caveat_is(role text) RETURNS boolean STABLE": """
        SELECT coalesce(pg_has_role(session_user, to_regrole(role)::oid, 'MEMBER'), false)
           AND NOT pg_has_role(session_user, current_user, 'MEMBER')""",
    "caveat_refuse(why text) RETURNS void": """
        BEGIN
          RAISE insufficient_privilege USING MESSAGE = why;
        END""",
    "caveat_guard_jobs() RETURNS trigger": """
        DECLARE
          shown text := left(encode(sha256(convert_to(current_setting('caveat.lease', true), 'UTF8')), 'hex'), 26);
          parent jobs;
          others boolean;
          silent boolean;
        BEGIN
          IF NOT caveat_is('caveat_worker') THEN RETURN NEW; END IF;

          IF TG_OP = 'INSERT' THEN  -- shards of an audit that this transaction divides
            IF NEW.kind = 'shard' AND NEW.state = 'queued' AND NEW.report_digest IS NULL AND NEW.result IS NULL
               AND EXISTS (SELECT FROM jobs j WHERE j.id = NEW.parent_id AND j.tenant = NEW.tenant AND j.shards > 0
                           AND j.xmin = pg_current_xact_id()::xid
                           AND NEW.payload::jsonb -> 'audit' = j.payload::jsonb)
            THEN RETURN NEW; END IF;
            PERFORM caveat_refuse('a worker submits no jobs');
          END IF;

          silent := (NEW.result::text, NEW.report_digest) IS NOT DISTINCT FROM (OLD.result::text, OLD.report_digest);
          IF OLD.state = 'running' AND OLD.lease_token = shown AND (silent OR NEW.state = 'succeeded')
          THEN RETURN NEW; END IF;  -- renew, advance, divide, succeed, fail, stop, release, retry
          IF OLD.state = 'queued' AND NEW.state = 'running' AND silent AND NEW.attempts = OLD.attempts + 1
             AND NEW.lease_token IS NOT NULL
          THEN RETURN NEW; END IF;  -- claim
          IF OLD.state = 'running' AND OLD.lease_until < clock_timestamp() AND silent AND NEW.lease_token IS NULL
             AND (NEW.state IN ('queued', 'failed') OR NEW.state = 'cancelled' AND OLD.cancel_requested)
          THEN RETURN NEW; END IF;  -- take back what another worker lost

          IF OLD.state = 'queued' AND to_jsonb(NEW) - 'rung_at' = to_jsonb(OLD) - 'rung_at'
          THEN RETURN NEW; END IF;  -- publish
          IF OLD.state IN ('queued', 'running') AND NEW.queue = 'default'
             AND to_jsonb(NEW) - '{queue,rung_at,updated_at}'::text[]
               = to_jsonb(OLD) - '{queue,rung_at,updated_at}'::text[]
          THEN RETURN NEW; END IF;  -- reroute
          IF OLD.state = 'running' AND NEW.release_requested
             AND to_jsonb(NEW) - 'release_requested' = to_jsonb(OLD) - 'release_requested'
          THEN RETURN NEW; END IF;  -- ask a worker to give its jobs back

          IF OLD.state = 'running' AND OLD.lease_token IS NULL AND OLD.shards > 0 AND silent THEN
            SELECT count(*) = NEW.shards_left INTO others
              FROM jobs j WHERE j.parent_id = OLD.id AND j.kind = 'shard' AND j.state <> 'succeeded';
            IF NEW.state = 'running' AND others AND to_jsonb(NEW) - '{shards_left,progress,updated_at}'::text[]
                                                  = to_jsonb(OLD) - '{shards_left,progress,updated_at}'::text[]
            THEN RETURN NEW; END IF;  -- count a shard
            IF NEW.state = 'queued' AND others AND OLD.shards_left = 0 THEN RETURN NEW; END IF;  -- join
            IF NEW.state = 'cancelled' AND OLD.cancel_requested THEN RETURN NEW; END IF;
            IF NEW.state = 'failed' AND EXISTS (SELECT FROM jobs j WHERE j.parent_id = OLD.id AND j.state = 'failed')
            THEN RETURN NEW; END IF;
          END IF;
          IF OLD.kind = 'shard' THEN  -- shards of an audit that has ended
            SELECT * INTO parent FROM jobs j WHERE j.id = OLD.parent_id;
            IF parent.state IN ('succeeded', 'failed', 'cancelled') AND NEW.report_digest IS NULL AND (
                 OLD.state = 'queued' AND NEW.state = 'cancelled' AND silent
                 OR NEW.state = OLD.state AND (silent OR NEW.result IS NULL)
                    AND to_jsonb(NEW) - '{result,cancel_requested,updated_at}'::text[]
                      = to_jsonb(OLD) - '{result,cancel_requested,updated_at}'::text[])
            THEN RETURN NEW; END IF;
          END IF;
          PERFORM caveat_refuse('a worker changes only jobs whose lease it holds');
        END""",
    "caveat_guard_events() RETURNS trigger": """
        BEGIN
          IF NOT caveat_is('caveat_worker') OR EXISTS (
               SELECT FROM jobs j WHERE j.id = NEW.job_id AND j.tenant = NEW.tenant
                 AND j.xmin = pg_current_xact_id()::xid)
          THEN RETURN NEW; END IF;
          PERFORM caveat_refuse('a worker records only steps that it takes');
        END""",
    "caveat_guard_uses() RETURNS trigger": """
        BEGIN
          IF NOT caveat_is('caveat_worker') OR EXISTS (
               SELECT FROM jobs j WHERE j.id = NEW.job_id AND j.report_digest = NEW.digest
                 AND j.xmin = pg_current_xact_id()::xid)
          THEN RETURN NEW; END IF;
          PERFORM caveat_refuse('a worker keeps only the report of a job that it ends');
        END""",
    "caveat_guard_log() RETURNS trigger": """
        DECLARE
          head heads;
          worker boolean := caveat_is('caveat_worker');
        BEGIN
          IF NOT worker AND NOT caveat_is('caveat_api') THEN RETURN NEW; END IF;
          IF TG_OP = 'UPDATE' THEN
            IF NOT worker AND NEW.payload IS NULL THEN RETURN NEW; END IF;  -- erase
            PERFORM caveat_refuse('entries of the audit log are never rewritten');
          END IF;
          SELECT * INTO head FROM heads h WHERE h.tenant = NEW.tenant FOR UPDATE;
          IF NOT FOUND OR NEW.seq <> head.length + 1 OR NEW.previous <> head.digest THEN
            PERFORM caveat_refuse('the audit log grows only at its end');
          END IF;
          IF NOT worker
             OR NEW.what IN ('succeed', 'fail', 'stop', 'give_up') AND EXISTS (
               SELECT FROM jobs j WHERE j.id = NEW.job_id AND j.tenant = NEW.tenant
                 AND j.xmin = pg_current_xact_id()::xid
                 AND j.state = CASE NEW.what
                               WHEN 'succeed' THEN 'succeeded' WHEN 'stop' THEN 'cancelled' ELSE 'failed' END
                 AND j.report_digest IS NOT DISTINCT FROM NEW.payload ->> 'report_digest')
             OR NEW.what = 'disable_webhook' AND NEW.job_id IS NULL AND EXISTS (
               SELECT FROM webhooks w WHERE w.id = NEW.payload ->> 'webhook' AND w.tenant = NEW.tenant
                 AND w.xmin = pg_current_xact_id()::xid AND w.disabled_at IS NOT NULL)
          THEN RETURN NEW; END IF;
          PERFORM caveat_refuse('a worker logs only how its jobs ended');
        END""",
    "caveat_guard_heads() RETURNS trigger": """
        BEGIN
          IF NOT caveat_is('caveat_worker') AND NOT caveat_is('caveat_api')
             OR TG_OP = 'INSERT' AND NEW.length = 0 AND NEW.digest = 'sha256:' || repeat('0', 64)
             OR TG_OP = 'UPDATE' AND NEW.tenant = OLD.tenant AND NEW.length = OLD.length + 1 AND EXISTS (
               SELECT FROM log l WHERE l.tenant = NEW.tenant AND l.seq = NEW.length AND l.digest = NEW.digest)
          THEN RETURN NEW; END IF;
          PERFORM caveat_refuse('the head of the audit log follows its last entry');
        END""",
    "caveat_guard_deliveries() RETURNS trigger": """
        DECLARE
          body jsonb;
        BEGIN
          IF NOT caveat_is('caveat_worker') THEN RETURN coalesce(NEW, OLD); END IF;
          IF TG_OP = 'DELETE' THEN
            IF OLD.created_at < clock_timestamp() - interval '29 days' THEN RETURN OLD; END IF;
            PERFORM caveat_refuse('a worker deletes only old messages');
          END IF;
          body := NEW.body::jsonb;
          IF EXISTS (
               SELECT FROM jobs j JOIN webhooks w ON w.tenant = j.tenant
                WHERE j.id = NEW.job_id AND w.id = NEW.webhook_id AND j.xmin = pg_current_xact_id()::xid
                  AND NEW.type = 'audit.' || j.state AND body ->> 'type' = NEW.type
                  AND body #>> '{data,audit}' = j.id AND body #>> '{data,state}' = j.state
                  AND body #>> '{data,report_digest}' IS NOT DISTINCT FROM j.report_digest)
          THEN RETURN NEW; END IF;
          PERFORM caveat_refuse('a worker writes only messages about jobs that it ends');
        END""",
    "caveat_hmac(key bytea, message bytea) RETURNS bytea IMMUTABLE": """
        DECLARE
          inside bytea := key || decode(repeat('00', 64 - length(key)), 'hex');
          outside bytea := inside;
        BEGIN  -- HMAC-SHA256 (RFC 2104) of a key of at most 64 bytes
          FOR i IN 0..63 LOOP
            outside := set_byte(outside, i, get_byte(inside, i) # 92);
            inside := set_byte(inside, i, get_byte(inside, i) # 54);
          END LOOP;
          RETURN sha256(outside || sha256(inside || message));
        END""",
    "caveat_address(message text, held text, at bigint) RETURNS TABLE (url text, signatures text) STABLE": """
        SELECT w.url::text, string_agg('v1,' || encode(caveat_hmac(decode(substr(secrets.one, 7), 'base64'),
                 convert_to(concat_ws('.', d.id, at, d.body), 'UTF8')), 'base64'), ' ' ORDER BY secrets.age)
          FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id
         CROSS JOIN LATERAL (VALUES (0, w.secret), (1, CASE WHEN w.old_until > clock_timestamp() THEN w.old_secret END))
               AS secrets (age, one)
         WHERE d.id = message AND d.token = held AND d.state = 'pending' AND d.claimed_until > clock_timestamp()
           AND w.disabled_at IS NULL AND secrets.one IS NOT NULL
         GROUP BY w.url""",
}


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for role in (API, WORKER):
        _create(role)
    _revoke()
    (schema,) = op.get_bind().execute(text("SELECT quote_ident(current_schema())")).one()
    for role, tables in GRANTS.items():
        op.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        op.execute(f"GRANT USAGE ON SEQUENCE events_seq_seq TO {role}")
        for table, rights in tables.items():
            op.execute(f"GRANT {rights} ON {table} TO {role}")
    for head, body in FUNCTIONS.items():
        language = "plpgsql" if "BEGIN" in body else "sql"
        _run(
            f"CREATE OR REPLACE FUNCTION {head} LANGUAGE {language} SECURITY DEFINER "
            f"SET search_path = {schema}, pg_temp AS $body${body}$body$"
        )
        op.execute(f"REVOKE ALL ON FUNCTION {_signature(head)} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION caveat_address(text, text, bigint) TO {WORKER}")
    for table, when in GUARDED.items():
        op.execute(
            f"CREATE OR REPLACE TRIGGER caveat_guard BEFORE {when} ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION caveat_guard_{table}()"
        )


def downgrade() -> None:
    """Takes the rights back; the roles stay, since another database of the server may use them."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in GUARDED:
        op.execute(f"DROP TRIGGER IF EXISTS caveat_guard ON {table}")
    for head in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION IF EXISTS {_signature(head)}")
    _revoke()


def _create(role: str) -> None:
    """Creates a role that nobody logs in as, unless it is there; databases of a server may do so at the same time."""
    _run(f"""
        DO $$ BEGIN
          IF to_regrole('{role}') IS NULL THEN CREATE ROLE {role} NOLOGIN; END IF;
        EXCEPTION
          WHEN duplicate_object OR unique_violation THEN NULL;
          WHEN insufficient_privilege THEN
            RAISE insufficient_privilege USING MESSAGE = 'there is no role {role}, and this one may not create it',
              HINT = 'Ask an administrator for CREATE ROLE {API}; CREATE ROLE {WORKER}; then migrate again.';
        END $$""")


def _revoke() -> None:
    (schema,) = op.get_bind().execute(text("SELECT quote_ident(current_schema())")).one()
    for role, tables in GRANTS.items():
        op.execute(f"REVOKE ALL ON SCHEMA {schema} FROM {role}")
        op.execute(f"REVOKE ALL ON SEQUENCE events_seq_seq FROM {role}")
        for table in tables:
            op.execute(f"REVOKE ALL ON {table} FROM {role}")


def _run(statement: str) -> None:
    """Runs a statement as it is: colons in it name no parameters."""
    op.get_bind().exec_driver_sql(statement)


def _signature(head: str) -> str:
    """`name(types)` of a function."""
    name, _, rest = head.partition("(")
    arguments = rest.partition(")")[0]
    return f"{name}({', '.join(argument.split()[1] for argument in arguments.split(', ') if argument)})"
