"""Tells webhooks how audits ended: takes a message that is due, signs it, sends it, and notes what came of it."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from importlib.metadata import version
from typing import Any

from sqlalchemy.exc import DBAPIError
from standardwebhooks import Webhook

from vault import addresses, webhooks
from vault.records import Database, now
from vault.webhooks import Parcel
from worker.post import SECONDS, UnsentError, post
from worker.settings import Settings, settings

log = logging.getLogger(__name__)

AT_A_TIME = 4
LASTS = timedelta(seconds=2 * SECONDS)
"""How long a message that was taken stays taken if nothing is heard of its sender."""
GONE = 410
"""The status with which a receiver says that it wants no more messages."""
CLEAN_SECONDS = 3600.0

_gone = threading.Event()


def begin(**_: Any) -> None:
    """Starts sending, in a few threads, when the worker is ready."""
    database = Database(settings().database_url)
    for number in range(AT_A_TIME):
        threading.Thread(target=_send_until_gone, args=(database,), daemon=True, name=f"courier-{number}").start()
    threading.Thread(target=_clean_until_gone, args=(database,), daemon=True, name="courier-cleaner").start()


def end(**_: Any) -> None:
    """Stops sending; what was taken is due again soon."""
    _gone.set()


def deliver(database: Database, parcel: Parcel, settings: Settings) -> None:
    """Sends one message, and notes whether it arrived."""
    allowed = addresses.networks(settings.webhook_networks)
    try:
        status = post(parcel.url, parcel.body.encode(), headers(parcel), allowed)
        answer = f"HTTP {status}"
    except UnsentError as fault:
        status, answer = 0, str(fault)
    except Exception as fault:
        log.exception("message %s to webhook %s could not be sent", parcel.id, parcel.webhook_id)
        status, answer = 0, f"a fault of the service: {type(fault).__name__}"
    if 200 <= status < 300:
        webhooks.arrived(database, parcel, answer)
        return
    log.info("message %s to webhook %s failed at attempt %s", parcel.id, parcel.webhook_id, parcel.attempt)
    if webhooks.failed(
        database,
        parcel,
        answer[:255],
        attempts=settings.webhook_attempts,
        backoff=timedelta(seconds=settings.webhook_backoff_seconds),
        unwanted=status == GONE,
    ):
        log.warning("webhook %s is disabled: its messages do not arrive", parcel.webhook_id)


def headers(parcel: Parcel) -> dict[str, str]:
    """What Standard Webhooks asks for: id, time and a signature by each secret that is valid."""
    moment = now()
    return {
        "Content-Type": "application/json",
        "User-Agent": f"caveat/{version('caveat')}",
        "webhook-id": parcel.id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(Webhook(one).sign(parcel.id, moment, parcel.body) for one in parcel.secrets),
    }


def _send_until_gone(database: Database) -> None:
    while not _gone.is_set():
        try:
            parcel = webhooks.take(database, lasts=LASTS)
            if parcel is not None:
                deliver(database, parcel, settings())
                continue
        except (DBAPIError, OSError) as fault:
            log.warning("messages to webhooks have to wait: %s", type(fault).__name__)
        _gone.wait(settings().reap_seconds)


def _clean_until_gone(database: Database) -> None:
    while not _gone.wait(CLEAN_SECONDS):
        try:
            webhooks.forget_old(database)
        except DBAPIError as fault:
            log.warning("old messages to webhooks could not be deleted: %s", type(fault).__name__)
