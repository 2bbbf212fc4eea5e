"""Webhooks: registered, shown, given another secret, enabled, tried out, forgotten."""

from __future__ import annotations

from flask import Blueprint, Response

from api_spec.openapi import DeliveriesQuery
from api_spec.problem import Fault
from api_spec.webhooks import Deliveries, NewWebhook, WebhookRecord, Webhooks, WebhookSecret
from service.contract import answer, invalid, serves
from service.errors import not_found, refuse
from service.state import asker, behind, tenant
from vault import addresses, webhooks
from vault.webhooks import TooManyError

blueprint = Blueprint("webhooks", __name__)


@serves(blueprint, "create_webhook")
def create_webhook(body: NewWebhook) -> Response:
    """Keeps the webhook, and shows its secret."""
    if fault := addresses.fault(body.url, addresses.networks(behind().settings.webhook_networks)):
        raise invalid("Nothing can be sent to this URL.", [Fault(pointer="/url", detail=fault)])
    try:
        record, secret = webhooks.register(behind().database, tenant(), body.url, body.events, by=asker())
    except TooManyError as full:
        raise refuse(
            "too-many-webhooks", 409, f"There are {webhooks.MOST} webhooks, which is as many as there can be.",
            "Delete one that is no longer needed.",
        ) from full  # fmt: skip
    return answer(_with(secret, record), 201, {"Location": f"/v1/webhooks/{record.id}"})


@serves(blueprint, "list_webhooks")
def list_webhooks() -> Response:
    """Shows all webhooks of the tenant."""
    return answer(Webhooks(webhooks=webhooks.registered(behind().database, tenant())))


@serves(blueprint, "get_webhook")
def get_webhook(webhook_id: str) -> Response:
    """Shows one webhook."""
    return answer(_find(webhook_id))


@serves(blueprint, "delete_webhook")
def delete_webhook(webhook_id: str) -> Response:
    """Forgets the webhook."""
    if not webhooks.remove(behind().database, tenant(), webhook_id, by=asker()):
        raise not_found("webhook")
    return Response(status=204)


@serves(blueprint, "rotate_webhook")
def rotate_webhook(webhook_id: str) -> Response:
    """Shows a new secret."""
    secret = webhooks.rotate(behind().database, tenant(), webhook_id, by=asker())
    record = _find(webhook_id)
    assert secret is not None
    return answer(_with(secret, record))


@serves(blueprint, "enable_webhook")
def enable_webhook(webhook_id: str) -> Response:
    """Lets messages go out again."""
    webhooks.enable(behind().database, tenant(), webhook_id, by=asker())
    return answer(_find(webhook_id))


@serves(blueprint, "test_webhook")
def test_webhook(webhook_id: str) -> Response:
    """Lets a message go out that says nothing."""
    webhooks.test(behind().database, tenant(), webhook_id)
    return answer(_find(webhook_id), 202)


@serves(blueprint, "list_deliveries")
def list_deliveries(webhook_id: str, query: DeliveriesQuery) -> Response:
    """Shows the last messages."""
    _find(webhook_id)
    return answer(Deliveries(deliveries=webhooks.written(behind().database, tenant(), webhook_id, limit=query.limit)))


def _find(webhook_id: str) -> WebhookRecord:
    found = webhooks.registered(behind().database, tenant(), webhook_id)
    if not found:
        raise not_found("webhook")
    return found[0]


def _with(secret: str, record: WebhookRecord) -> WebhookSecret:
    return WebhookSecret(**dict(record), secret=secret)
