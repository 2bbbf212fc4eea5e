"""Sessions of the console: who signed in, in a signed cookie that scripts cannot read, and the token of its forms.

The cookie names a key, never its secret, and is worth nothing without the service's own secret: the key is looked up at
every request, so that a revoked one ends its sessions at once. Of somebody who signed in with the issuer of tokens it
names tenant, subject and scopes, and holds no token; the issuer cannot end such a session, so it is short.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from flask import Flask, request, session

from caveat_service.errors import HTTPProblem, refuse
from caveat_service.oidc import Pending
from caveat_service.settings import Settings
from caveat_service.state import app_context
from caveat_storage import keys
from caveat_storage.keys import Holder

LASTS = timedelta(hours=12)
OIDC_LASTS = timedelta(hours=1)
"""How long a sign-in with the issuer lasts: it does not say when somebody may no longer read."""
PENDING_SECONDS = 600.0
"""How long somebody may take to sign in with the issuer."""
LONGEST_PATH = 500
"""Characters of a path that is kept while somebody signs in."""
COOKIE = "__Host-caveat"
"""Browsers take a cookie of this prefix only over TLS (or from this machine), and only from this very host."""


def register(app: Flask, settings: Settings) -> None:
    """Sets up the cookie; without a secret nobody can sign in."""
    app.secret_key = settings.console_secret
    app.config.update(
        SESSION_COOKIE_NAME=COOKIE,
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_PATH="/",
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=LASTS,
    )


def are_possible() -> bool:
    """Whether this service can keep sessions."""
    return app_context().settings.console_secret is not None


def holder() -> Holder | None:
    """The principal behind the session, if its key is still valid and it is not too old."""
    if not _is_before(session.get("until")):
        return None
    key_id, person = session.get("key"), session.get("oidc")
    if isinstance(key_id, str):
        return keys.holder_of(app_context().database, key_id)
    if isinstance(person, dict) and person["client"] == _client():
        return Holder(person["tenant"], person["name"], frozenset(person["scopes"]))
    return None


def begin(key_id: str) -> None:
    """Signs a key in."""
    _begin(LASTS, key=key_id)


def begin_oidc(who: Holder) -> None:
    """Signs somebody in whom the issuer named."""
    person = {"tenant": who.tenant, "name": who.name, "scopes": sorted(who.scopes), "client": _client()}
    _begin(OIDC_LASTS, oidc=person)


def _begin(lasts: timedelta, **principal: object) -> None:
    """A new session: whoever planted the old one knows nothing of it."""
    session.clear()
    session.permanent = True
    session.update(principal, until=(datetime.now(UTC) + lasts).timestamp())


def _client() -> list[str | None]:
    """The client and the issuer that sessions come from; those of others end."""
    return [app_context().settings.oidc_issuer, app_context().settings.oidc_client_id]


def _is_before(until: object) -> bool:
    return isinstance(until, float) and datetime.now(UTC).timestamp() < until


def expect(pending: Pending) -> None:
    """Keeps what the answer to a sign-in has to fit."""
    session["pending"] = {**asdict(pending), "until": datetime.now(UTC).timestamp() + PENDING_SECONDS}


def expected() -> Pending | None:
    """What the answer to a sign-in has to fit, once; None where none began, or too long ago."""
    kept = session.pop("pending", None)
    if not isinstance(kept, dict) or not _is_before(kept.pop("until", None)):
        return None
    return Pending(**kept)


def remember_path() -> None:
    """Keeps the page that was asked for without a session."""
    path = request.full_path.rstrip("?")
    if request.method == "GET" and len(path) <= LONGEST_PATH:
        session["next"] = path


def next_path() -> str:
    """The page that was asked for before the sign-in; it was one of this console, and no URL says which."""
    return str(session.get("next", "/"))


def end() -> None:
    """Signs out."""
    session.clear()


def token() -> str:
    """The token that a form of this session carries."""
    if "token" not in session:
        session["token"] = secrets.token_urlsafe(32)
    return str(session["token"])


def require_token() -> None:
    """Rejects a form that does not come from a page of this session."""
    given, kept = request.form.get("token", ""), session.get("token")
    if not isinstance(kept, str) or not hmac.compare_digest(given.encode(), kept.encode()) or is_foreign():
        raise _forged()


def is_foreign() -> bool:
    """Whether the browser says that another site sends the form."""
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.host


def _forged() -> HTTPProblem:
    return refuse(
        "forged-form",
        403,
        "This form does not belong to your session, or the session has ended.",
        "Open the page again and repeat what you did; your browser has to accept cookies of this site.",
    )
