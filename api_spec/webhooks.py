"""Webhooks: where a tenant wants to be told that an audit has ended, and what it is told (Standard Webhooks)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from api_spec.artifacts import State
from api_spec.base import Count, Digest, Document
from api_spec.problem import Problem
from api_spec.report import Outcome

Occasion = Literal["audit.succeeded", "audit.failed", "audit.cancelled"]
OCCASIONS: tuple[Occasion, ...] = ("audit.succeeded", "audit.failed", "audit.cancelled")

Url = Annotated[
    str,
    StringConstraints(
        max_length=2048,
        pattern=r"^https?://(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9][A-Za-z0-9.-]{0,252})(:[0-9]{1,5})?([/?][!$-~]*)?$",
    ),
]
"""Where to send: no user, no fragment, nothing that is not ASCII."""


class NewWebhook(Document):
    """Asks to be told."""

    url: Url
    """Where to send messages; `http` and private addresses only as far as an operator allows them."""
    events: Annotated[list[Occasion], Field(min_length=1, max_length=3, default_factory=lambda: [*OCCASIONS])]
    """Of what."""


class WebhookRecord(Document):
    """A place that is told."""

    id: str
    url: str
    events: list[Occasion]
    created_at: datetime
    disabled_at: datetime | None
    """Since when nothing is sent any more, if so; what there was to tell since is kept for 30 days."""
    problem: Problem | None
    """Why it was disabled."""


class WebhookSecret(WebhookRecord):
    """A place that is told, in one of the few moments in which its secret is shown."""

    secret: str
    """What messages are signed with: `whsec_` and base64 of 32 random bytes."""


class Webhooks(Document):
    """All of a tenant's."""

    webhooks: list[WebhookRecord]


class Delivery(Document):
    """A message, and what became of it."""

    id: str
    """The `webhook-id`, the same at each attempt."""
    type: Occasion | Literal["webhook.test"]
    audit: str | None
    state: Literal["pending", "delivered", "failed"]
    attempts: Count
    created_at: datetime
    due_at: datetime | None
    """When it is tried next."""
    answer: str | None
    """What the last attempt came to: a status, or why there was none."""


class Deliveries(Document):
    """The last messages, the newest first."""

    deliveries: list[Delivery]


class Ended(Document):
    """An audit that ended; everything else about it is read with a key."""

    audit: str
    state: State
    outcome: Outcome | None
    report_digest: Digest | None
    problem: str | None
    """The type of the problem, where it failed."""


class Message(Document):
    """What is sent, as the body of a POST."""

    type: Occasion | Literal["webhook.test"]
    timestamp: datetime
    data: Ended | None
    """None in a test."""
