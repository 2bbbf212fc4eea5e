"""Sessions of the console: who signed in, in a signed cookie that scripts cannot read, and the token of its forms.

The cookie names a key, never its secret, and is worth nothing without the service's own secret: the key is looked up at
every request, so that a revoked one ends its sessions at once.
"""

from __future__ import annotations

import hmac
import secrets
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from flask import Flask, request, session

from caveat_service.errors import HTTPProblem, refuse
from caveat_service.settings import Settings
from caveat_service.state import app_context
from caveat_storage import keys
from caveat_storage.keys import Holder

LASTS = timedelta(hours=12)
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
    key_id, until = session.get("key"), session.get("until")
    if not isinstance(key_id, str) or not isinstance(until, float) or until < datetime.now(UTC).timestamp():
        return None
    return keys.holder_of(app_context().database, key_id)


def begin(key_id: str) -> None:
    """Signs a key in, in a new session: whoever planted the old one knows nothing of it."""
    session.clear()
    session.permanent = True
    session["key"], session["until"] = key_id, (datetime.now(UTC) + LASTS).timestamp()


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
    if not isinstance(kept, str) or not hmac.compare_digest(given.encode(), kept.encode()) or _foreign():
        raise _forged()


def _foreign() -> bool:
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
