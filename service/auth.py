"""Who is asking, and whether they may: a bearer key names a tenant and what it may do."""

from __future__ import annotations

from flask import Flask, g, request

from api_spec.openapi import BY_NAME
from service.errors import RefusedError, refuse
from service.state import behind
from vault import keys


def register(app: Flask) -> None:
    """Asks for a key before every operation that is not open to everybody."""
    app.before_request(_admit)


def _admit() -> None:
    if behind().settings.auth == "off":
        return
    operation = BY_NAME.get((request.endpoint or "").rpartition(".")[2])
    if operation is not None and operation.scope is None:
        return
    if operation is None and request.path.startswith("/docs"):
        return
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    holder = keys.holder(behind().database, key.strip()) if scheme.lower() == "bearer" else None
    if holder is None:
        raise _unknown()
    g.tenant, g.asker = holder.tenant, holder.name
    if operation is not None and not holder.scopes & {operation.scope, "admin"}:
        raise refuse(
            "forbidden",
            403,
            f"This key may {' and '.join(sorted(holder.scopes)) or 'do nothing'}, not {operation.scope}.",
            f"Ask an operator for a key with the scope '{operation.scope}'.",
        )


def _unknown() -> RefusedError:
    refused = refuse(
        "unauthorized",
        401,
        "There is no key in this request, or it has expired or was revoked.",
        "Send 'Authorization: Bearer caveat_...'; an operator issues keys.",
    )
    refused.headers["WWW-Authenticate"] = 'Bearer realm="caveat"'
    return refused
