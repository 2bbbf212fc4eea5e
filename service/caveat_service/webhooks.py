"""Webhooks: register, show, rotate the secret, enable, test and delete."""

from __future__ import annotations

from flask import Blueprint, Response

from caveat_service.contract import answer, invalid, serves
from caveat_service.errors import not_found, refuse
from caveat_service.state import app_context, principal, tenant
from caveat_spec.openapi import DeliveriesQuery
from caveat_spec.problem import Fault
from caveat_spec.webhooks import Deliveries, NewWebhook, WebhookRecord, Webhooks, WebhookSecret
from caveat_storage import ssrf, webhooks
from caveat_storage.webhooks import TooManyError

blueprint = Blueprint("webhooks", __name__)


@serves(blueprint, "create_webhook")
def create_webhook(body: NewWebhook) -> Response:
    """Registers a webhook and returns its secret."""
    if fault := ssrf.fault(body.url, ssrf.networks(app_context().settings.webhook_networks)):
        raise invalid("Messages cannot be sent to this URL.", [Fault(pointer="/url", detail=fault)])
    try:
        record, secret = webhooks.register(app_context().database, tenant(), body.url, body.events, by=principal())
    except TooManyError as full:
        raise refuse(
            "too-many-webhooks", 409, f"You have {webhooks.MOST} webhooks, which is the limit.",
            "Delete one that is no longer needed.",
        ) from full  # fmt: skip
    return answer(_with(secret, record), 201, {"Location": f"/v1/webhooks/{record.id}"})


@serves(blueprint, "list_webhooks")
def list_webhooks() -> Response:
    """Returns all webhooks of the tenant."""
    return answer(Webhooks(webhooks=webhooks.registered(app_context().database, tenant())))


@serves(blueprint, "get_webhook")
def get_webhook(webhook_id: str) -> Response:
    """Returns one webhook."""
    return answer(_find(webhook_id))


@serves(blueprint, "delete_webhook")
def delete_webhook(webhook_id: str) -> Response:
    """Deletes the webhook."""
    if not webhooks.remove(app_context().database, tenant(), webhook_id, by=principal()):
        raise not_found("webhook")
    return Response(status=204)


@serves(blueprint, "rotate_webhook")
def rotate_webhook(webhook_id: str) -> Response:
    """Replaces the secret and returns the new one."""
    secret = webhooks.rotate(app_context().database, tenant(), webhook_id, by=principal())
    record = _find(webhook_id)
    assert secret is not None
    return answer(_with(secret, record))


@serves(blueprint, "enable_webhook")
def enable_webhook(webhook_id: str) -> Response:
    """Enables the webhook."""
    webhooks.enable(app_context().database, tenant(), webhook_id, by=principal())
    return answer(_find(webhook_id))


@serves(blueprint, "test_webhook")
def test_webhook(webhook_id: str) -> Response:
    """Queues a test message."""
    webhooks.test(app_context().database, tenant(), webhook_id)
    return answer(_find(webhook_id), 202)


@serves(blueprint, "list_deliveries")
def list_deliveries(webhook_id: str, query: DeliveriesQuery) -> Response:
    """Returns the latest messages."""
    _find(webhook_id)
    return answer(
        Deliveries(deliveries=webhooks.written(app_context().database, tenant(), webhook_id, limit=query.limit))
    )


def _find(webhook_id: str) -> WebhookRecord:
    found = webhooks.registered(app_context().database, tenant(), webhook_id)
    if not found:
        raise not_found("webhook")
    return found[0]


def _with(secret: str, record: WebhookRecord) -> WebhookSecret:
    return WebhookSecret(**dict(record), secret=secret)
