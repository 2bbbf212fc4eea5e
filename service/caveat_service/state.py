"""The application context of a request: storage, publisher, settings, tenant and principal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, cast

from flask import current_app, g, request

from caveat_service.auth_throttle import AuthThrottle
from caveat_service.dispatch import JobPublisher
from caveat_service.oidc import Issuer
from caveat_service.readiness import Readiness
from caveat_service.settings import Settings
from caveat_storage.blobs import Blobs
from caveat_storage.job_records import ANONYMOUS, Database
from caveat_storage.studies import Rater

if TYPE_CHECKING:
    from caveat_service.oidc_sign_in import OIDCSignIn

EXTENSION = "caveat"
DEFAULT_TENANT = "default"


class SharedPlaces:
    """Places of which everybody may hold as many as are free (dynamic thresholds, Choudhury and Hahne, 1998).

    So one client alone holds half of them, a second one half of the rest, and so on.
    """

    def __init__(self, total: int) -> None:
        """Takes the number of places."""
        self._total, self._held, self._turn = total, Counter[str](), Lock()

    def acquire(self, who: str) -> bool:
        """Takes a place; returns False if this client holds as many as are free."""
        with self._turn:
            may = self._held[who] < self._total - self._held.total()
            self._held[who] += may
        return may

    def release(self, who: str) -> None:
        """Gives a place back."""
        with self._turn:
            self._held[who] -= 1
            self._held += Counter()  # forgets who holds none


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
    def sign_in(self) -> OIDCSignIn | None:
        """Where people sign in to the console, if not by keys alone; what that takes is loaded only then."""
        if self.settings.oidc_client_id is None or self.issuer is None:
            return None
        from caveat_service.oidc_sign_in import OIDCSignIn

        return OIDCSignIn(self.settings, self.issuer)

    @cached_property
    def long_requests(self) -> SharedPlaces:
        """Places for long requests in this process."""
        return SharedPlaces(max(1, self.settings.request_threads * 3 // 4))

    @cached_property
    def readiness(self) -> Readiness:
        """The checks of the parts behind this process."""
        return Readiness(self.database, self.blobs, self.publisher)


def app_context() -> AppContext:
    """The context of the current application."""
    return cast(AppContext, current_app.extensions[EXTENSION])


def tenant() -> str:
    """The tenant of the current request."""
    return str(g.get("tenant", DEFAULT_TENANT))


def client() -> str:
    """Whose share of threads the current request uses: its tenant's or, without keys, its address's."""
    return f"tenant {g.tenant}" if "tenant" in g else f"address {request.remote_addr}"


def rater() -> Rater:
    """Whose link the current request came by; only for the pages of raters."""
    return cast(Rater, g.rater)


def principal() -> str:
    """The principal of the current request, as recorded in the audit log."""
    return str(g.get("principal", ANONYMOUS))
