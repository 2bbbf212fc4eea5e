"""Sends the messages of webhooks: claims a due message, signs it, sends it, and records the outcome."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Any

from sqlalchemy.exc import DBAPIError

from caveat_storage import ssrf, webhooks
from caveat_storage.job_records import Database, now
from caveat_storage.webhooks import PendingDelivery
from caveat_worker.jobs.settings import Settings, settings
from caveat_worker.jobs.webhook_http import SECONDS, UnsentError, post

log = logging.getLogger(__name__)

SENDERS = 4
LASTS = timedelta(seconds=2 * SECONDS)
"""How long a claimed message stays claimed if its sender does not report."""
GONE = 410
"""Status with which a receiver declines further messages."""
CLEAN_SECONDS = 3600.0

_gone = threading.Event()


def begin(**_: Any) -> None:
    """Starts the sending threads when the worker is ready."""
    database = Database(settings().database_url)
    for number in range(SENDERS):
        threading.Thread(
            target=_send_until_gone, args=(database,), daemon=True, name=f"webhook-sender-{number}"
        ).start()
    threading.Thread(target=_clean_until_gone, args=(database,), daemon=True, name="webhook-sender-cleaner").start()


def end(**_: Any) -> None:
    """Stops sending; claimed messages are due again soon."""
    _gone.set()


def deliver(database: Database, delivery: PendingDelivery, settings: Settings) -> None:
    """Sends one message and records the outcome."""
    moment = now()
    address = webhooks.address(database, delivery, moment)
    if address is None:  # the webhook was deleted or disabled a moment ago
        return
    allowed = ssrf.networks(settings.webhook_networks)
    try:
        status = post(address.url, delivery.body.encode(), headers(delivery, moment, address.signatures), allowed)
        answer = f"HTTP {status}"
    except UnsentError as fault:
        status, answer = 0, str(fault)
    except Exception as fault:
        log.exception("message %s to webhook %s could not be sent", delivery.id, delivery.webhook_id)
        status, answer = 0, f"an internal error of the service: {type(fault).__name__}"
    if 200 <= status < 300:
        webhooks.arrived(database, delivery, answer)
        return
    log.info("message %s to webhook %s failed at attempt %s", delivery.id, delivery.webhook_id, delivery.attempt)
    if webhooks.failed(
        database,
        delivery,
        answer[:255],
        attempts=settings.webhook_attempts,
        backoff=timedelta(seconds=settings.webhook_backoff_seconds),
        unwanted=status == GONE,
    ):
        log.warning("webhook %s is disabled: its messages could not be delivered", delivery.webhook_id)


def headers(delivery: PendingDelivery, moment: datetime, signatures: str) -> dict[str, str]:
    """The headers of Standard Webhooks: id, time, and a signature with each valid secret."""
    return {
        "Content-Type": "application/json",
        "User-Agent": f"caveat/{version('caveat')}",
        "webhook-id": delivery.id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": signatures,
    }


def _send_until_gone(database: Database) -> None:
    while not _gone.is_set():
        try:
            delivery = webhooks.take(database, lasts=LASTS)
            if delivery is not None:
                deliver(database, delivery, settings())
                continue
        except (DBAPIError, OSError) as fault:
            log.warning("sending to webhooks will be retried: %s", type(fault).__name__)
        _gone.wait(settings().reap_seconds)


def _clean_until_gone(database: Database) -> None:
    while not _gone.wait(CLEAN_SECONDS):
        try:
            webhooks.forget_old(database)
        except DBAPIError as fault:
            log.warning("old messages to webhooks could not be deleted: %s", type(fault).__name__)
