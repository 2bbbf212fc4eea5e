"""Tokens of an OpenID Connect issuer, in place of keys: its signatures are checked with the keys that it publishes."""

from __future__ import annotations

import re
import threading
from typing import Any

import httpx
import jwt
from jwt import PyJWKClient
from jwt.exceptions import PyJWKClientConnectionError, PyJWTError

from service.settings import Settings
from vault.keys import SCOPES, TENANT, Holder

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""All of them have two halves: a public key can be taken for no shared secret."""
SECONDS = 5.0
"""How long the issuer may take to answer."""
LEEWAY = 30.0
"""Seconds by which clocks may differ."""
LONGEST = 16_384  # characters of a token


class IssuerAwayError(Exception):
    """The issuer does not give its keys, so no token can be checked."""


class Issuer:
    """Who signs tokens, and what is read from them."""

    def __init__(self, settings: Settings) -> None:
        """Asks nothing yet; the first token does."""
        self.settings = settings
        self._keys: PyJWKClient | None = None
        self._turn = threading.Lock()

    def holder(self, token: str) -> Holder | None:
        """Who holds a token, if it is the issuer's, for this service, still good, and names a tenant.

        Raises:
            IssuerAwayError: it needs keys that the issuer does not give now.
        """
        if len(token) > LONGEST:
            return None
        try:
            claims = self._claims(token)
        except (PyJWKClientConnectionError, httpx.HTTPError) as fault:
            raise IssuerAwayError from fault
        except (PyJWTError, ValueError):
            return None
        tenant = claims.get(self.settings.oidc_tenant_claim)
        if not isinstance(tenant, str) or not re.fullmatch(TENANT, tenant):
            return None
        return Holder(tenant, f"oidc:{claims['sub']}"[:255], frozenset(self._scopes(claims)))

    def _claims(self, token: str) -> dict[str, Any]:
        if jwt.get_unverified_header(token).get("alg") not in ALGORITHMS:
            raise ValueError("no algorithm of ours")  # before anybody is asked for keys
        key = self._client().get_signing_key_from_jwt(token)
        claims: dict[str, Any] = jwt.decode(
            token, key, ALGORITHMS, issuer=self.settings.oidc_issuer, audience=self.settings.oidc_audience,
            leeway=LEEWAY, options={"require": ["exp", "iss", "aud", "sub"]},
        )  # fmt: skip
        return claims

    def _client(self) -> PyJWKClient:
        """Knows the issuer's keys for five minutes; for one that it does not know it looks again, now and then."""
        with self._turn:
            if self._keys is None:
                url = self.settings.oidc_jwks_url or _discovered(str(self.settings.oidc_issuer))
                self._keys = PyJWKClient(url, timeout=SECONDS, cooldown_duration=self.settings.oidc_cooldown_seconds)
            return self._keys

    def _scopes(self, claims: dict[str, Any]) -> set[str]:
        claimed = claims.get(self.settings.oidc_scope_claim)
        named = claimed.split() if isinstance(claimed, str) else claimed if isinstance(claimed, list) else []
        prefix = self.settings.oidc_scope_prefix
        return {scope for scope in SCOPES if f"{prefix}{scope}" in named}


def _discovered(issuer: str) -> str:
    """Where the issuer says that its keys are (OpenID Connect Discovery 1.0)."""
    found = (
        httpx.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration", timeout=SECONDS).raise_for_status().json()
    )
    place = found.get("jwks_uri") if isinstance(found, dict) and found.get("issuer") == issuer else None
    if not isinstance(place, str) or not place.startswith(("https://", "http://")):  # nor a file of this machine
        raise IssuerAwayError("what the issuer says of itself is not about itself")
    return place
