"""Tokens of an OpenID Connect issuer, accepted beside keys and verified with the keys that the issuer publishes."""

from __future__ import annotations

import re
import threading
from typing import Any

import httpx
import jwt
from jwt import PyJWKClient
from jwt.exceptions import PyJWKClientConnectionError, PyJWTError

from caveat_service.settings import Settings
from caveat_storage.keys import SCOPES, TENANT, Holder

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Only asymmetric algorithms, so a public key cannot be misused as a shared secret."""
SECONDS = 5.0
"""Timeout for requests to the issuer."""
LEEWAY = 30.0
"""Tolerated clock difference in seconds."""
LONGEST = 16_384  # characters of a token


class IssuerAwayError(Exception):
    """The issuer does not provide its keys, so tokens cannot be verified."""


class Issuer:
    """An issuer of tokens."""

    def __init__(self, settings: Settings) -> None:
        """Connects on the first token."""
        self.settings = settings
        self._keys: PyJWKClient | None = None
        self._turn = threading.Lock()

    def holder(self, token: str) -> Holder | None:
        """The principal behind a token; None unless the issuer signed it for this service and it is valid and complete.

        Raises:
            IssuerAwayError: the issuer does not provide the key of the token.
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
            raise ValueError("algorithm not accepted")  # rejected before the issuer is called
        key = self._client().get_signing_key_from_jwt(token)
        claims: dict[str, Any] = jwt.decode(
            token, key, ALGORITHMS, issuer=self.settings.oidc_issuer, audience=self.settings.oidc_audience,
            leeway=LEEWAY, options={"require": ["exp", "iss", "aud", "sub"]},
        )  # fmt: skip
        return claims

    def _client(self) -> PyJWKClient:
        """The client that caches the issuer's keys for five minutes; unknown keys are looked up again at intervals."""
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
    """The URL of the issuer's keys (OpenID Connect Discovery 1.0)."""
    found = (
        httpx.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration", timeout=SECONDS).raise_for_status().json()
    )
    place = found.get("jwks_uri") if isinstance(found, dict) and found.get("issuer") == issuer else None
    if not isinstance(place, str) or not place.startswith(("https://", "http://")):  # in particular no file URL
        raise IssuerAwayError("the discovery document does not describe the issuer")
    return place
