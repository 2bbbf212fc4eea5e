"""Authentication and authorisation: a bearer key or an issuer's token names a tenant and its scopes."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask, g, request

from caveat_service import sessions
from caveat_service.errors import HTTPProblem, refuse
from caveat_service.issuer_keys import IssuerAwayError
from caveat_service.state import app_context
from caveat_spec.openapi import BY_NAME, OPERATIONS
from caveat_storage import keys, ssrf, studies
from caveat_storage.keys import Holder
from caveat_telemetry import logs

OPEN = frozenset(operation.path for operation in OPERATIONS if operation.scope is None)
OPEN_BELOW = ("/docs", "/problems/", *(path.partition("{")[0] for path in OPEN if "{" in path))
"""Open paths, and what open ones begin with, where an unsupported method is answered with 405 even without a key."""

CONSOLE = "console"
"""The blueprint whose visitors are known by their session."""
RATERS = "raters"
"""The blueprint whose visitors are known by the link that they were sent."""
SIGN_IN = ("/sign-in", "/sign-in/oidc", "/sign-in/oidc/callback")
"""Its paths for those who have none yet."""


def register(app: Flask) -> None:
    """Requires a key for every operation that is not open to everybody."""
    app.before_request(_admit)


def _admit() -> None:
    if request.blueprint == RATERS:
        _admit_rater()
        return
    operation = BY_NAME.get((request.endpoint or "").rpartition(".")[2])
    if app_context().settings.auth == "off":
        asks = request.blueprint == CONSOLE or (operation is not None and operation.scope is not None)
        if asks and app_context().settings.is_local:
            _require_local_host()
        return
    if request.blueprint == CONSOLE:
        _admit_session()
        return
    if operation is not None and operation.scope is None:
        return
    if operation is None and (request.path in OPEN or request.path.startswith(OPEN_BELOW)):
        return
    key = _key()
    holder = _holder(key) if key else None
    if holder is None:
        raise _wrong() if key else _unknown()
    g.tenant, g.principal = holder.tenant, holder.name
    if operation is not None and not holder.scopes & {operation.scope, "admin"}:
        raise refuse(
            "forbidden",
            403,
            f"This key may {' and '.join(sorted(holder.scopes)) or 'do nothing'}, not {operation.scope}.",
            f"Ask an operator for a key with the scope '{operation.scope}'.",
        )


def _admit_session() -> None:
    """Admits the key that signed in to the console; the form to do so is open to everybody."""
    if not sessions.are_possible():
        raise refuse(
            "no-console",
            404,
            "The console is off, because this service has no secret to sign sessions with.",
            "An operator turns it on with CAVEAT_CONSOLE_SECRET, random text of at least 32 characters.",
        )
    holder = sessions.holder()
    if holder is not None and holder.scopes & {"read", "admin"}:
        g.tenant, g.principal, g.scopes = holder.tenant, holder.name, holder.scopes
    elif request.path not in SIGN_IN:
        raise _unknown()


def _admit_rater() -> None:
    """Admits whoever has the link of a rater; a wrong one counts against the address, like a wrong key."""
    found = studies.rater_of(app_context().database, str((request.view_args or {}).get("token", "")))
    if found is not None:
        g.rater = found
        return
    address = request.remote_addr or ""
    logs.note(address=address)
    over = app_context().auth_throttle.count(address)
    if over is None:
        raise refuse(
            "no-such-link", 404, "This link belongs to no study, or its study was deleted.",
            "Copy the whole link that you were sent.",
        )  # fmt: skip
    refused = refuse(
        "too-many-wrong-links", 429, "This link belongs to no study, nor did many others from your address.",
        "Copy the whole link that you were sent; whoever has one that is right is not limited.",
    )  # fmt: skip
    refused.headers.update(over)
    raise refused


def key_id_of(key: str) -> str:
    """The id of a valid key that may read; raises HTTPProblem for any other, which counts against the address."""
    holder = keys.holder(app_context().database, key) if key else None
    if holder is None:
        raise _wrong()
    if not holder.scopes & {"read", "admin"}:
        raise refuse("forbidden", 403, "This key may not read.", "Ask an operator for a key with the scope 'read'.")
    return holder.name.removeprefix("key:")


def count_failure() -> None:
    """Counts a failed sign-in against the address; raises HTTPProblem once there were too many."""
    refused = _wrong()
    if refused.problem.status == 429:
        raise refused


def is_known() -> bool:
    """Whether an open operation may tell this client what is not for everybody; waits for no issuer of tokens."""
    key = _key()
    if app_context().settings.auth == "off":
        return True
    if not key:
        return False
    try:
        if _holder(key, wait=False) is not None:
            return True
    except HTTPProblem:  # the issuer is away
        return False
    refused = _wrong()
    if refused.problem.status == 429:
        raise refused
    return False


def _key() -> str:
    """The bearer key or token of the request; empty if there is none."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _require_local_host() -> None:
    """Rejects unknown host names on a local service, so that no web page can reach it through DNS rebinding."""
    name = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    if name and name != "localhost" and not ssrf.is_address(name):
        raise refuse(
            "misdirected", 421, "This service listens only on its own machine and requires no keys, so it rejects "
            "requests under host names that others control.",
            "Use 127.0.0.1 or localhost; behind a proxy, set CAVEAT_AUTH=keys, or let the proxy send that host.",
        )  # fmt: skip


def _holder(key: str, *, wait: bool = True) -> Holder | None:
    """The principal behind one of our keys or a token of the issuer, whose keys may be waited for."""
    issuer = app_context().issuer
    if issuer is None or key.startswith(f"{keys.PREFIX}_"):
        return keys.holder(app_context().database, key)
    try:
        return issuer.holder(key, wait=wait)
    except IssuerAwayError as fault:
        refused = refuse(
            "issuer-away", 503, "The issuer of tokens does not provide its keys, so tokens cannot be checked.",
            "Try again in a moment; bearer keys of this service work meanwhile.",
        )  # fmt: skip
        refused.headers["Retry-After"] = "5"
        raise refused from fault


def _wrong() -> HTTPProblem:
    """The key is not valid, which counts against the address of the client."""
    address = request.remote_addr or ""
    logs.note(address=address)
    over = app_context().auth_throttle.count(address)
    if over is None:
        return _unknown()
    refused = refuse(
        "too-many-wrong-keys",
        429,
        "The key in this request is not valid, nor were those of many earlier requests from your address.",
        "Check whether your key has expired or was revoked; requests with a valid key are not limited.",
    )
    refused.headers.update(over)
    return refused


def _unknown() -> HTTPProblem:
    refused = refuse(
        "unauthorized",
        401,
        "The request has no key, or its key has expired or was revoked.",
        "Send 'Authorization: Bearer caveat_...'; an operator issues keys (`caveat keys create`).",
    )
    refused.headers["WWW-Authenticate"] = 'Bearer realm="caveat"'
    return refused
