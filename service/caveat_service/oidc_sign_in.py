"""People sign in with the issuer of tokens: the code flow of OpenID Connect Core 1.0, with PKCE (RFC 7636).

What the answer has to fit (state, nonce and the verifier of the code) lies in the session of the browser that asked.
The code is exchanged by this process, and of the tokens nothing is kept but tenant, subject and scopes.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
from jwt.exceptions import PyJWTError
from oauthlib.oauth2 import MismatchingStateError, OAuth2Error, WebApplicationClient

from caveat_service.issuer_keys import IssuerAwayError
from caveat_service.oidc import SECONDS, Issuer, Pending, SignInRefused, discovered
from caveat_service.settings import Settings
from caveat_storage.keys import Holder

CALLBACK = "/sign-in/oidc/callback"
"""Where the issuer sends browsers back to, below the URL of the console; it is registered there."""
FRESH_SECONDS = 3600.0
"""Age at which the issuer is asked for its endpoints again."""
PLACE_SECONDS = 1.0
"""How long a request waits until few enough others ask the issuer."""


class OIDCSignIn:
    """The console as a client of the issuer."""

    def __init__(self, settings: Settings, issuer: Issuer) -> None:
        """Asks the issuer for its endpoints at the first sign-in."""
        self._settings, self._issuer = settings, issuer
        self._client_id, self._secret = str(settings.oidc_client_id), settings.oidc_client_secret
        self._redirect = f"{str(settings.console_url).rstrip('/')}{CALLBACK}"
        self._asking = BoundedSemaphore(max(2, settings.request_threads // 4))
        self._found: dict[str, Any] = {}
        self._fresh_until = float("-inf")

    @property
    def name(self) -> str:
        """What people know the issuer by: its host."""
        return str(urlsplit(str(self._settings.oidc_issuer)).hostname)

    def begin(self) -> tuple[str, Pending]:
        """Where a browser is sent to sign in, and what its answer has to fit; raises IssuerAwayError."""
        pending = Pending(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48))
        client = WebApplicationClient(self._client_id)
        place = client.prepare_request_uri(
            self._endpoints()["authorization_endpoint"],
            redirect_uri=self._redirect,
            scope=self._settings.oidc_sign_in_scope,
            state=pending.state,
            nonce=pending.nonce,
            code_challenge=client.create_code_challenge(pending.verifier, "S256"),
            code_challenge_method="S256",
        )
        return place, pending

    def complete(self, query: str, pending: Pending) -> Holder:
        """Who signed in, by the query that the issuer sent the browser back with.

        Raises:
            SignInRefused: the answer does not belong to `pending`, or names nobody who may read.
            IssuerAwayError: the issuer does not answer, or not as it should.
        """
        found = self._exchanged(self._code(query, pending), pending)
        claims = self._claims(found.get("id_token"), pending.nonce)
        if self._settings.oidc_scope_claim == "scope":  # what is granted stands beside an ID token (RFC 6749, 5.1)
            claims = {"scope": found.get("scope", self._settings.oidc_sign_in_scope), **claims}
        holder = self._issuer.holder_of(claims)
        if holder is None:
            raise SignInRefused(
                403,
                f"Your account names no tenant: the claim '{self._settings.oidc_tenant_claim}' is missing.",
                "Ask whoever runs the issuer to add it to your account's ID tokens.",
            )
        if not holder.scopes & {"read", "admin"}:
            raise SignInRefused(
                403,
                "Your account may not read.",
                f"Ask whoever runs the issuer for the scope '{self._settings.oidc_scope_prefix}read'.",
            )
        return holder

    def _code(self, query: str, pending: Pending) -> str:
        """The code in an answer to `pending`."""
        client = WebApplicationClient(self._client_id)
        try:
            answered = client.parse_request_uri_response(f"{self._redirect}?{query}", state=pending.state)
        except MismatchingStateError as fault:
            raise SignInRefused(403, "This answer does not belong to a sign-in that began in this browser.") from fault
        except OAuth2Error as fault:
            raise SignInRefused(403, "The issuer did not sign you in, or you told it not to.") from fault
        issuer = self._settings.oidc_issuer
        if answered.get("iss", issuer) != issuer:  # RFC 9207
            raise SignInRefused(403, "This answer comes from another issuer than the one that was asked.")
        return str(answered["code"])

    def _exchanged(self, code: str, pending: Pending) -> dict[str, Any]:
        """What the issuer gives for the code, which it takes once and only with the verifier."""
        endpoints, client = self._endpoints(), WebApplicationClient(self._client_id)
        offered = endpoints.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        in_head = self._secret is not None and "client_secret_basic" in offered
        in_body = {} if self._secret is None or in_head else {"client_secret": self._secret}
        body = client.prepare_request_body(
            code=code, redirect_uri=self._redirect, code_verifier=pending.verifier, **in_body
        )
        head = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        names = (quote(self._client_id, safe=""), quote(self._secret or "", safe=""))  # RFC 6749, section 2.3.1
        with self._asked():
            answered = httpx2.post(
                endpoints["token_endpoint"], content=body, headers=head, auth=names if in_head else None,
                timeout=SECONDS,
            )  # fmt: skip
        try:
            if answered.status_code >= 500 or not isinstance(answered.json(), dict):
                raise IssuerAwayError
            found: dict[str, Any] = client.parse_request_body_response(answered.text)
        except OAuth2Error as fault:
            raise SignInRefused(401, "The issuer does not take the code of this sign-in.") from fault
        except (ValueError, TypeError, AttributeError) as fault:
            raise IssuerAwayError from fault
        return found

    def _claims(self, token: Any, nonce: str) -> dict[str, Any]:
        """What an ID token says that is for this client and for this sign-in (OpenID Connect Core 1.0, 3.1.3.7)."""
        try:
            claims = self._issuer.claims(str(token), self._client_id, wait=True)
        except (PyJWTError, ValueError) as fault:
            raise _not_ours() from fault
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise _not_ours()
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if several else self._client_id) != self._client_id:
            raise _not_ours()
        return claims

    def _endpoints(self) -> dict[str, Any]:
        """Where the issuer signs people in, and where it takes codes."""
        if time.monotonic() > self._fresh_until:
            with self._asked():
                found = discovered(str(self._settings.oidc_issuer))
            for name in ("authorization_endpoint", "token_endpoint"):
                if not self._is_endpoint(found.get(name)):
                    raise IssuerAwayError(f"the discovery document has no {name}")
            self._found, self._fresh_until = found, time.monotonic() + FRESH_SECONDS
        return self._found

    def _is_endpoint(self, place: Any) -> bool:
        """Whether a URL is one; an issuer with TLS has no endpoints without."""
        scheme = urlsplit(str(self._settings.oidc_issuer)).scheme
        return isinstance(place, str) and urlsplit(place).scheme in {"https", scheme}

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """A place among the few requests that ask the issuer; raises IssuerAwayError if there is none or it is away."""
        if not self._asking.acquire(timeout=PLACE_SECONDS):
            raise IssuerAwayError
        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as fault:
            raise IssuerAwayError from fault
        finally:
            self._asking.release()


def _not_ours() -> SignInRefused:
    return SignInRefused(401, "The issuer's token is not valid for this sign-in.")
