"""Who is asking, and whether they may: a bearer key, or an issuer's token, names a tenant and what it may do."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask, g, request

from api_spec.openapi import BY_NAME, OPERATIONS
from service.errors import RefusedError, refuse
from service.oidc import IssuerAwayError
from service.state import behind
from telemetry import logs
from vault import addresses, keys
from vault.keys import Holder

OPEN = frozenset(operation.path for operation in OPERATIONS if operation.scope is None)
"""Where a method that is not served is told so, key or no key."""


def register(app: Flask) -> None:
    """Asks for a key before every operation that is not open to everybody."""
    app.before_request(_admit)


def _admit() -> None:
    operation = BY_NAME.get((request.endpoint or "").rpartition(".")[2])
    if behind().settings.auth == "off":
        if operation is not None and operation.scope is not None and behind().settings.is_local:
            _insist_on_a_local_name()
        return
    if operation is not None and operation.scope is None:
        return
    if operation is None and (request.path in OPEN or request.path.startswith("/docs")):
        return
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    key = key.strip() if scheme.lower() == "bearer" else ""
    holder = _holder(key) if key else None
    if holder is None:
        raise _wrong() if key else _unknown()
    g.tenant, g.asker = holder.tenant, holder.name
    if operation is not None and not holder.scopes & {operation.scope, "admin"}:
        raise refuse(
            "forbidden",
            403,
            f"This key may {' and '.join(sorted(holder.scopes)) or 'do nothing'}, not {operation.scope}.",
            f"Ask an operator for a key with the scope '{operation.scope}'.",
        )


def _insist_on_a_local_name() -> None:
    """What listens for this machine alone is asked by no other name, so that no page in a browser gives it one."""
    name = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    if name and name != "localhost" and not addresses.is_address(name):
        raise refuse(
            "misdirected", 421, "This service listens for its own machine alone and asks for no keys, so it is not "
            "asked by a name that others can give it.",
            "Ask 127.0.0.1 or localhost; behind a proxy, set CAVEAT_AUTH=keys, or let the proxy ask for 127.0.0.1.",
        )  # fmt: skip


def _holder(key: str) -> Holder | None:
    """Who holds a key of ours, or a token of the issuer."""
    issuer = behind().issuer
    if issuer is None or key.startswith(f"{keys.PREFIX}_"):
        return keys.holder(behind().database, key)
    try:
        return issuer.holder(key)
    except IssuerAwayError as fault:
        refused = refuse(
            "issuer-away", 503, "The issuer of tokens does not give its keys, so no token can be checked.",
            "Try again in a moment; a bearer key of this service works meanwhile.",
        )  # fmt: skip
        refused.headers["Retry-After"] = "5"
        raise refused from fault


def _wrong() -> RefusedError:
    """The key is none of ours, which is counted."""
    address = request.remote_addr or ""
    logs.note(address=address)
    over = behind().guesses.count(address)
    if over is None:
        return _unknown()
    refused = refuse(
        "too-many-wrong-keys",
        429,
        "The key in this request is not valid, nor were those of many requests before it from your address.",
        "Look whether your key has expired or was revoked; valid keys are served, and need not wait.",
    )
    refused.headers.update(over)
    return refused


def _unknown() -> RefusedError:
    refused = refuse(
        "unauthorized",
        401,
        "There is no key in this request, or it has expired or was revoked.",
        "Send 'Authorization: Bearer caveat_...'; an operator issues keys (`caveat keys create`).",
    )
    refused.headers["WWW-Authenticate"] = 'Bearer realm="caveat"'
    return refused
