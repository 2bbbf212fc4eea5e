"""Webhooks: their registration, their messages, and the state of each delivery.

A message is written in the transaction that ends its audit, so it exists if and only if the audit has ended. A sender
claims it for a while; if the sender does not report, the message is due again with the same id. A message is thus
delivered at least once, and its id tells the receiver whether it was received before.

Changes to a webhook are recorded in its tenant's audit log, without the secret, and with only the origin of the URL,
because many receivers use the rest of the URL as a credential.
"""

from __future__ import annotations

import base64
import secrets
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from sqlalchemy import BigInteger, ColumnElement, Connection, Row, Select, and_, func, or_, select
from sqlalchemy import cast as cast_as
from standardwebhooks import Webhook

from caveat_spec.problem import ProblemDetails
from caveat_spec.webhooks import Delivery, Ended, Message, Occasion, WebhookRecord
from caveat_storage import audit_log
from caveat_storage.job_records import ANONYMOUS, Database, Record, clock, new_id, now, take_turn
from caveat_storage.tables import deliveries, log, webhooks

MOST = 20
"""Most webhooks of a tenant."""
TENANT_AT_ONCE = 2
"""Most messages of a tenant on their way at the same time, over all workers: half of the senders of one worker."""
TEST: Literal["webhook.test"] = "webhook.test"
OLD_SECRET_LASTS = timedelta(days=1)
"""How long the previous secret still signs as well."""
KEPT = timedelta(days=30)
"""How long a message is kept, delivered or not."""
GROWTH = 4
"""Factor by which the pause grows after each attempt."""
WEBHOOK_SENDER = "webhook-sender"
"""Principal in the audit log when undeliverable messages disable a webhook."""
LOGGED = ("create_webhook", "rotate_webhook", "enable_webhook", "disable_webhook", "delete_webhook")
"""Actions on webhooks in the audit log."""
SHOWN = [webhooks.c[field] for field in WebhookRecord.model_fields]


class TooManyError(Exception):
    """The tenant has as many webhooks as it may."""


@dataclass(frozen=True)
class PendingDelivery:
    """A message claimed by one sender."""

    id: str
    webhook_id: str
    body: str
    attempt: int
    token: str


@dataclass(frozen=True)
class Address:
    """Where a claimed message goes, and its signatures."""

    url: str
    signatures: str
    """The `webhook-signature` header: a signature with each valid secret."""


def register(
    database: Database, tenant: str, url: str, events: list[Occasion], *, by: str = ANONYMOUS
) -> tuple[WebhookRecord, str]:
    """Creates a webhook; returns it and its secret.

    Raises:
        TooManyError: the tenant has `MOST` webhooks.
    """
    values: dict[str, Any] = {"id": new_id(), "url": url, "events": events, "created_at": now()}
    secret = _new_secret()
    with database.writing() as connection:
        take_turn(connection, "webhooks", tenant)
        mine = select(func.count()).where(webhooks.c.tenant == tenant)
        if connection.execute(mine).scalar_one() >= MOST:
            raise TooManyError
        connection.execute(webhooks.insert().values(tenant=tenant, secret=secret, **values))
        _log(connection, tenant, "create_webhook", values["id"], by, to=_origin(url), events=events)
    return WebhookRecord(**values, disabled_at=None, problem=None), secret


def registered(database: Database, tenant: str, webhook_id: str | None = None) -> list[WebhookRecord]:
    """All webhooks of a tenant, or the one with that id, oldest first."""
    wanted = select(*SHOWN).where(webhooks.c.tenant == tenant).order_by(webhooks.c.id)
    if webhook_id is not None:
        wanted = wanted.where(webhooks.c.id == webhook_id)
    with database.reading() as connection:
        return [WebhookRecord(**row._mapping) for row in connection.execute(wanted)]


def remove(database: Database, tenant: str, webhook_id: str, *, by: str = ANONYMOUS) -> bool:
    """Deletes a webhook and its messages; returns False if the tenant has no such webhook."""
    with database.writing() as connection:
        if connection.execute(webhooks.delete().where(_mine(tenant, webhook_id))).rowcount == 0:
            return False
        _log(connection, tenant, "delete_webhook", webhook_id, by)
    return True


def rotate(database: Database, tenant: str, webhook_id: str, *, by: str = ANONYMOUS) -> str | None:
    """Replaces the secret, while the old one also signs for a day; None if the tenant has no such webhook."""
    secret = _new_secret()
    values = {"secret": secret, "old_secret": webhooks.c.secret, "old_until": now() + OLD_SECRET_LASTS}
    with database.writing() as connection:
        if connection.execute(webhooks.update().where(_mine(tenant, webhook_id)).values(**values)).rowcount == 0:
            return None
        _log(connection, tenant, "rotate_webhook", webhook_id, by)
    return secret


def enable(database: Database, tenant: str, webhook_id: str, *, by: str = ANONYMOUS) -> bool:
    """Enables a webhook and queues failed messages again; returns False if the tenant has no such webhook."""
    with database.writing() as connection:
        enabled = webhooks.update().where(_mine(tenant, webhook_id)).values(disabled_at=None, problem=None)
        if connection.execute(enabled).rowcount == 0:
            return False
        failed = and_(deliveries.c.webhook_id == webhook_id, deliveries.c.state == "failed")
        connection.execute(
            deliveries.update().where(failed).values(state="pending", attempts=0, due_at=clock(connection))
        )
        _log(connection, tenant, "enable_webhook", webhook_id, by)
    return True


def announce(connection: Connection, ended: Record) -> None:
    """Writes a message for each webhook that subscribes to the end of this audit."""
    occasion = cast(Occasion, f"audit.{ended.state}")
    data = Ended(
        audit=ended.id,
        state=ended.state,
        outcome=(ended.result or {}).get("outcome"),
        report_digest=ended.report_digest,
        problem=(ended.problem or {}).get("type"),
    )
    wanted = select(webhooks.c.id, webhooks.c.events).where(webhooks.c.tenant == ended.tenant).order_by(webhooks.c.id)
    for row in connection.execute(wanted.with_for_update(read=True, key_share=True)).all():  # locked against deletion
        if occasion in row.events:
            _write(connection, row.id, Message(type=occasion, timestamp=ended.updated_at, data=data))


def test(database: Database, tenant: str, webhook_id: str) -> bool:
    """Writes a test message, or makes one that still waits due now; returns False if there is no such webhook."""
    with database.writing() as connection:
        there = select(webhooks.c.id).where(_mine(tenant, webhook_id)).with_for_update()
        if connection.execute(there).one_or_none() is None:
            return False
        waits = and_(
            deliveries.c.webhook_id == webhook_id,
            deliveries.c.type == TEST,
            deliveries.c.state == "pending",
        )
        if connection.execute(select(deliveries.c.id).where(waits).limit(1)).one_or_none() is None:
            _write(connection, webhook_id, Message(type=TEST, timestamp=clock(connection), data=None))
        else:
            moment = clock(connection)
            idle = or_(deliveries.c.claimed_until.is_(None), deliveries.c.claimed_until < moment)
            connection.execute(deliveries.update().where(waits, idle).values(due_at=moment))
    return True


def written(database: Database, tenant: str, webhook_id: str, *, limit: int) -> list[Delivery]:
    """The latest messages to a webhook, newest first."""
    wanted = (
        select(deliveries)
        .join(webhooks, deliveries.c.webhook_id == webhooks.c.id)
        .where(_mine(tenant, webhook_id))
        .order_by(deliveries.c.id.desc())
        .limit(limit)
    )
    with database.reading() as connection:
        return [_shown(row) for row in connection.execute(wanted)]


def take(database: Database, *, lasts: timedelta) -> PendingDelivery | None:
    """Claims the message whose turn it is, for `lasts`; None if none is due.

    A webhook has one message on its way, and a tenant `TENANT_AT_ONCE`, so a receiver that is silent occupies no more
    senders. The others go to the tenant that has the fewest on their way, and among those to whoever waited longest.
    """
    with database.reading() as connection:
        moment = clock(connection)
        if connection.execute(_due(moment).limit(1)).one_or_none() is None:
            return None
    with database.writing() as connection:
        take_turn(connection, "deliver", "")
        webhook_id = _next_webhook(connection, moment)
        if webhook_id is None:
            return None
        whose = select(deliveries).where(deliveries.c.webhook_id == webhook_id, _is_due(moment))
        row = connection.execute(whose.order_by(deliveries.c.due_at).limit(1)).one_or_none()
        if row is None:  # the webhook was deleted a moment ago
            return None
        attempt, token, until = row.attempts + 1, new_id(), moment + lasts
        claimed = {"due_at": until, "claimed_until": until, "attempts": attempt, "token": token}
        connection.execute(deliveries.update().where(deliveries.c.id == row.id).values(**claimed))
        connection.execute(webhooks.update().where(webhooks.c.id == webhook_id).values(taken_at=moment))
    return PendingDelivery(row.id, row.webhook_id, row.body, attempt, token)


def address(database: Database, delivery: PendingDelivery, moment: datetime) -> Address | None:
    """The address of a claimed message, signed at `moment`; None if the claim or the webhook has ended.

    PostgreSQL signs by itself (migration 0010), since a worker may not read the secrets.
    """
    with database.reading() as connection:
        if connection.dialect.name == "postgresql":
            seconds = cast_as(int(moment.timestamp()), BigInteger)
            signed = func.caveat_address(delivery.id, delivery.token, seconds).table_valued("url", "signatures")
            row = connection.execute(select(signed)).one_or_none()
            return None if row is None else Address(row.url, row.signatures)
        there = select(webhooks).join(deliveries).where(_held(delivery), webhooks.c.disabled_at.is_(None))
        row = connection.execute(there.where(deliveries.c.claimed_until > now())).one_or_none()
    if row is None:
        return None
    old = [row.old_secret] if row.old_until is not None and row.old_until > now() else []
    signatures = (Webhook(secret).sign(delivery.id, moment, delivery.body) for secret in [row.secret, *old])
    return Address(row.url, " ".join(signatures))


def _next_webhook(connection: Connection, moment: datetime) -> str | None:
    """The webhook whose message is sent next; None if all that have one are busy."""
    sending = select(deliveries.c.webhook_id, webhooks.c.tenant).join(webhooks)
    underway = connection.execute(sending.where(deliveries.c.claimed_until > moment)).all()
    busy, at_once = {row.webhook_id for row in underway}, Counter(row.tenant for row in underway)
    served = select(webhooks.c.tenant, func.max(webhooks.c.taken_at).label("at")).group_by(webhooks.c.tenant)
    last = {row.tenant: row.at for row in connection.execute(served)}
    free = [
        row for row in connection.execute(_due(moment)) if row.id not in busy and at_once[row.tenant] < TENANT_AT_ONCE
    ]
    never = datetime.min.replace(tzinfo=UTC)
    first = min(free, key=lambda row: (at_once[row.tenant], last.get(row.tenant) or never, row.since), default=None)
    return None if first is None else str(first.id)


def _is_due(moment: datetime) -> ColumnElement[bool]:
    return and_(deliveries.c.state == "pending", deliveries.c.due_at <= moment)


def _due(moment: datetime) -> Select[Any]:
    """The enabled webhooks that have messages to be sent, and since when."""
    since = func.min(deliveries.c.due_at).label("since")
    whose = select(webhooks.c.id, webhooks.c.tenant, since).join(deliveries)
    return whose.where(_is_due(moment), webhooks.c.disabled_at.is_(None)).group_by(webhooks.c.id, webhooks.c.tenant)


def arrived(database: Database, delivery: PendingDelivery, answer: str) -> None:
    """Records that a message was delivered."""
    with database.writing() as connection:
        connection.execute(
            deliveries.update().where(_held(delivery)).values(state="delivered", answer=answer, claimed_until=None)
        )
        connection.execute(
            webhooks.update().where(webhooks.c.id == delivery.webhook_id).values(answered_at=clock(connection))
        )


def failed(
    database: Database,
    delivery: PendingDelivery,
    answer: str,
    *,
    attempts: int,
    backoff: timedelta,
    unwanted: bool = False,
) -> bool:
    """Records a failed attempt; returns True if it disabled the webhook.

    A message is tried `attempts` times, with pauses that grow from `backoff`. The webhook is disabled if the last
    attempt fails and no message was delivered since this one was written, or if the receiver wants no more messages.
    """
    with database.writing() as connection:
        moment = clock(connection)
        if delivery.attempt < attempts and not unwanted:
            later = moment + backoff * GROWTH ** (delivery.attempt - 1)
            connection.execute(
                deliveries.update().where(_held(delivery)).values(due_at=later, answer=answer, claimed_until=None)
            )
            return False
        ended = deliveries.update().where(_held(delivery)).values(state="failed", answer=answer, claimed_until=None)
        if connection.execute(ended).rowcount == 0:
            return False
        since = select(deliveries.c.created_at).where(deliveries.c.id == delivery.id).scalar_subquery()
        silent = or_(webhooks.c.answered_at.is_(None), webhooks.c.answered_at < since)
        whose = and_(webhooks.c.id == delivery.webhook_id, webhooks.c.disabled_at.is_(None))
        disabled = webhooks.update().where(whose if unwanted else and_(whose, silent))
        problem = _given_up(delivery, answer).model_dump(mode="json")
        if connection.execute(disabled.values(disabled_at=moment, problem=problem)).rowcount == 0:
            return False
        tenant = connection.execute(select(webhooks.c.tenant).where(webhooks.c.id == delivery.webhook_id)).scalar_one()
        said = {"message": delivery.id, "attempt": delivery.attempt, "answer": answer}
        _log(connection, tenant, "disable_webhook", delivery.webhook_id, WEBHOOK_SENDER, **said)
    return True


def erase(connection: Connection, tenant: str, *, by: str) -> int:
    """Deletes a tenant's webhooks, their messages, and their payloads in the audit log; returns their number."""
    mine = select(webhooks.c.id).where(webhooks.c.tenant == tenant).order_by(webhooks.c.id).with_for_update()
    gone = connection.scalars(mine).all()
    connection.execute(webhooks.delete().where(webhooks.c.id.in_(gone)))
    logged = log.c.what.in_(LOGGED)
    left = select(log.c.seq).where(log.c.tenant == tenant, logged, log.c.payload.is_not(None)).limit(1)
    if gone or connection.execute(left).one_or_none() is not None:
        audit_log.erase(connection, tenant, logged, {"by": by, "webhooks": len(gone)})
    return len(gone)


def forget_old(database: Database) -> int:
    """Deletes messages older than `KEPT`; returns their number."""
    with database.writing() as connection:
        return connection.execute(deliveries.delete().where(deliveries.c.created_at < now() - KEPT)).rowcount


def count_webhooks(database: Database) -> dict[str, int]:
    """Number of enabled and of disabled webhooks."""
    counted = select(webhooks.c.disabled_at.is_(None), func.count()).group_by(webhooks.c.disabled_at.is_(None))
    with database.reading() as connection:
        return {"enabled" if enabled else "disabled": count for enabled, count in connection.execute(counted)}


def count_deliveries(database: Database) -> dict[str, int]:
    """Number of messages in each state, of the last 30 days."""
    counted = select(deliveries.c.state, func.count()).group_by(deliveries.c.state)
    with database.reading() as connection:
        return {state: count for state, count in connection.execute(counted)}  # noqa: C416 - rows are no pairs


def _write(connection: Connection, webhook_id: str, message: Message) -> None:
    moment = clock(connection)
    connection.execute(
        deliveries.insert().values(
            id=new_id(),
            webhook_id=webhook_id,
            type=message.type,
            job_id=message.data.audit if message.data else None,
            body=message.model_dump_json(),
            state="pending",
            attempts=0,
            due_at=moment,
            created_at=moment,
        )
    )


def _shown(row: Row[Any]) -> Delivery:
    return Delivery(
        id=row.id,
        type=row.type,
        audit=row.job_id,
        state=row.state,
        attempts=row.attempts,
        created_at=row.created_at,
        due_at=row.due_at if row.state == "pending" else None,
        answer=row.answer,
    )


def _given_up(delivery: PendingDelivery, answer: str) -> ProblemDetails:
    return ProblemDetails.of(
        "webhook-disabled",
        503,
        f"The webhook is disabled: attempt {delivery.attempt} to send message {delivery.id} failed too ({answer}).",
        f"Fix the receiver, then POST /v1/webhooks/{delivery.webhook_id}:enable, which also sends the missed messages.",
    )


def _log(connection: Connection, tenant: str, what: str, webhook_id: str, by: str, **said: Any) -> None:
    audit_log.append(connection, tenant, what, {**said, "webhook": webhook_id, "by": by})


def _origin(url: str) -> str:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _mine(tenant: str, webhook_id: str) -> Any:
    return and_(webhooks.c.tenant == tenant, webhooks.c.id == webhook_id)


def _held(delivery: PendingDelivery) -> Any:
    return and_(deliveries.c.id == delivery.id, deliveries.c.token == delivery.token, deliveries.c.state == "pending")


def _new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
