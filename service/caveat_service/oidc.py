"""Tokens of an OpenID Connect issuer, accepted beside keys and verified with the keys that the issuer publishes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import httpx2
import jwt
from jwt import PyJWK, PyJWKClient
from jwt.exceptions import PyJWTError

from caveat_service.issuer_keys import IssuerAwayError, IssuerKeys
from caveat_service.settings import Settings
from caveat_storage.keys import SCOPES, TENANT, Holder

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Only asymmetric algorithms, so a public key cannot be misused as a shared secret."""
SECONDS = 5.0
"""Timeout for requests to the issuer."""
LEEWAY = 30.0
"""Tolerated clock difference in seconds."""
LONGEST = 16_384  # characters of a token


class SignInRefused(Exception):  # noqa: N818 - what became of a sign-in
    """A sign-in that names nobody: a status, and what is wrong and what to do, as two sentences."""

    def __init__(self, status: int, sentence: str, remedy: str = "Sign in again.") -> None:
        """Takes what the page says."""
        super().__init__(f"{sentence} {remedy}")
        self.status = status


@dataclass(frozen=True)
class Pending:
    """What the answer to a sign-in has to fit."""

    state: str
    nonce: str
    verifier: str


class Issuer:
    """An issuer of tokens."""

    def __init__(self, settings: Settings) -> None:
        """Connects on the first token."""
        self.settings = settings
        self._place = settings.oidc_jwks_url
        self._keys = IssuerKeys(self._fetched, settings.oidc_cooldown_seconds)

    def holder(self, token: str, *, wait: bool = True) -> Holder | None:
        """The principal behind a token; None unless the issuer signed it for this service and it is valid and complete.

        With `wait`, an unknown key is waited for a moment.

        Raises:
            IssuerAwayError: the issuer does not provide its keys, and the key of the token is unknown.
        """
        try:
            return self.holder_of(self.claims(token, self.settings.oidc_audience, wait=wait))
        except (PyJWTError, ValueError):
            return None

    def holder_of(self, claims: dict[str, Any]) -> Holder | None:
        """The principal that verified claims name; None if they name no tenant."""
        tenant = claims.get(self.settings.oidc_tenant_claim)
        if not isinstance(tenant, str) or not re.fullmatch(TENANT, tenant):
            return None
        return Holder(tenant, f"oidc:{claims['sub']}"[:255], frozenset(self._scopes(claims)))

    def claims(self, token: str, audience: str | None, *, wait: bool) -> dict[str, Any]:
        """What a token for this audience says.

        Raises:
            PyJWTError, ValueError: the issuer did not sign it, or it is not valid now and for this audience.
            IssuerAwayError: the issuer does not provide its keys, and the key of the token is unknown.
        """
        if len(token) > LONGEST:
            raise ValueError("the token is too long")
        head = jwt.get_unverified_header(token)
        if head.get("alg") not in ALGORITHMS:
            raise ValueError("algorithm not accepted")  # rejected before the issuer is called
        key = self._keys.get(str(head.get("kid")), wait=wait)
        if key is None:
            raise ValueError("the issuer has no such key")
        claims: dict[str, Any] = jwt.decode(
            token, key, ALGORITHMS, issuer=self.settings.oidc_issuer, audience=audience,
            leeway=LEEWAY, options={"require": ["exp", "iss", "aud", "sub"]},
        )  # fmt: skip
        return claims

    def _fetched(self) -> dict[str, PyJWK]:
        """The keys that the issuer publishes now."""
        self._place = self._place or _keys_place(discovered(str(self.settings.oidc_issuer)))
        client = PyJWKClient(self._place, cache_jwk_set=False, timeout=SECONDS)
        return {key.key_id: key for key in client.get_signing_keys() if key.key_id is not None}

    def _scopes(self, claims: dict[str, Any]) -> set[str]:
        claimed = claims.get(self.settings.oidc_scope_claim)
        named = claimed.split() if isinstance(claimed, str) else claimed if isinstance(claimed, list) else []
        prefix = self.settings.oidc_scope_prefix
        return {scope for scope in SCOPES if f"{prefix}{scope}" in named}


def discovered(issuer: str) -> dict[str, Any]:
    """What the issuer says of itself (OpenID Connect Discovery 1.0)."""
    found = (
        httpx2.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration", timeout=SECONDS).raise_for_status().json()
    )
    if not isinstance(found, dict) or found.get("issuer") != issuer:
        raise IssuerAwayError("the discovery document does not describe the issuer")
    return found


def _keys_place(found: dict[str, Any]) -> str:
    place = found.get("jwks_uri")
    if not isinstance(place, str) or not place.startswith(("https://", "http://")):  # in particular no file URL
        raise IssuerAwayError("the discovery document names no keys")
    return place
