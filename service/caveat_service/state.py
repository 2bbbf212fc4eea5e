"""The application context of a request: storage, publisher, settings, tenant and principal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from threading import BoundedSemaphore
from typing import cast

from flask import current_app, g

from caveat_service.auth_throttle import AuthThrottle
from caveat_service.dispatch import JobPublisher
from caveat_service.oidc import Issuer
from caveat_service.settings import Settings
from caveat_storage.blobs import Blobs
from caveat_storage.job_records import ANONYMOUS, Database

EXTENSION = "caveat"
DEFAULT_TENANT = "default"


@dataclass(frozen=True)
class AppContext:
    """The objects that outlive a request."""

    database: Database
    blobs: Blobs
    publisher: JobPublisher
    settings: Settings
    issuer: Issuer | None
    """Issuer of accepted tokens, if any."""
    auth_throttle: AuthThrottle

    @cached_property
    def long_requests(self) -> BoundedSemaphore:
        """Slots for long requests in this process."""
        return BoundedSemaphore(max(1, self.settings.request_threads * 3 // 4))


def app_context() -> AppContext:
    """The context of the current application."""
    return cast(AppContext, current_app.extensions[EXTENSION])


def tenant() -> str:
    """The tenant of the current request."""
    return str(g.get("tenant", DEFAULT_TENANT))


def principal() -> str:
    """The principal of the current request, as recorded in the audit log."""
    return str(g.get("principal", ANONYMOUS))
