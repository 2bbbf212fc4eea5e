"""Webhooks: URLs that receive a message when an audit of their tenant ends (Standard Webhooks)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from caveat_spec.artifacts import State
from caveat_spec.base import Count, Digest, Document
from caveat_spec.problem import ProblemDetails
from caveat_spec.report import Outcome

Occasion = Literal["audit.succeeded", "audit.failed", "audit.cancelled"]
OCCASIONS: tuple[Occasion, ...] = ("audit.succeeded", "audit.failed", "audit.cancelled")

Url = Annotated[
    str,
    StringConstraints(
        max_length=2048,
        pattern=r"^https?://(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9][A-Za-z0-9.-]{0,252})(:[0-9]{1,5})?([/?][!$-~]*)?$",
    ),
]
"""An http or https URL in ASCII, without credentials and without a fragment."""


class NewWebhook(Document):
    """A request to register a webhook."""

    url: Url
    """URL that receives the messages. `http` and private addresses need the operator's permission."""
    events: Annotated[list[Occasion], Field(min_length=1, max_length=3, default_factory=lambda: [*OCCASIONS])]
    """Events that are sent; by default all."""


class WebhookRecord(Document):
    """A registered webhook."""

    id: str
    url: str
    events: list[Occasion]
    created_at: datetime
    disabled_at: datetime | None
    """When sending stopped, if it did; messages since then are kept for 30 days."""
    problem: ProblemDetails | None
    """Why the webhook was disabled."""


class WebhookSecret(WebhookRecord):
    """A webhook with its secret, which is shown only on creation and on rotation."""

    secret: str
    """Secret that signs the messages: `whsec_` and base64 of 32 random bytes."""


class Webhooks(Document):
    """All webhooks of a tenant."""

    webhooks: list[WebhookRecord]


class Delivery(Document):
    """A message and the state of its delivery."""

    id: str
    """The `webhook-id` header, the same on every attempt."""
    type: Occasion | Literal["webhook.test"]
    audit: str | None
    state: Literal["pending", "delivered", "failed"]
    attempts: Count
    created_at: datetime
    due_at: datetime | None
    """Time of the next attempt."""
    answer: str | None
    """Result of the last attempt: an HTTP status, or the reason why there was no answer."""


class Deliveries(Document):
    """The latest messages, newest first."""

    deliveries: list[Delivery]


class Ended(Document):
    """The audit that ended; reading anything else about it needs a key."""

    audit: str
    state: State
    outcome: Outcome | None
    report_digest: Digest | None
    problem: str | None
    """Type of the problem, if the audit failed."""


class Message(Document):
    """The body of a message, sent with POST."""

    type: Occasion | Literal["webhook.test"]
    timestamp: datetime
    data: Ended | None
    """Null in a test message."""
