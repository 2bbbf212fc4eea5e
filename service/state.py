"""What stands behind a request: the vault, the bell, the settings, and who is asking."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from threading import BoundedSemaphore
from typing import cast

from flask import current_app, g

from service.dispatch import Bell
from service.guesses import Guesses
from service.oidc import Issuer
from service.settings import Settings
from vault.blobs import Blobs
from vault.records import NOBODY, Database

EXTENSION = "caveat"
DEFAULT_TENANT = "default"


@dataclass(frozen=True)
class Behind:
    """Everything that outlives a request."""

    database: Database
    blobs: Blobs
    bell: Bell
    settings: Settings
    issuer: Issuer | None
    """Whose tokens are taken beside keys."""
    guesses: Guesses

    @cached_property
    def places(self) -> BoundedSemaphore:
        """Places for requests that take long, in this process."""
        return BoundedSemaphore(max(1, self.settings.request_threads * 3 // 4))


def behind() -> Behind:
    """What stands behind the request of this thread."""
    return cast(Behind, current_app.extensions[EXTENSION])


def tenant() -> str:
    """For whom something is asked."""
    return str(g.get("tenant", DEFAULT_TENANT))


def asker() -> str:
    """Who asks, as the log says it."""
    return str(g.get("asker", NOBODY))
