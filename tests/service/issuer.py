"""A small issuer of OpenID Connect on this machine: it signs people in and takes each code once, with its verifier."""

from __future__ import annotations

import json
import secrets
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tests.serving import Answer, Asked, serving

KEY = rsa.generate_private_key(65537, 2048)
CLIENT, SECRET = "caveat-console", "the client's secret: kept /&= here"


@dataclass
class Issuer:
    """An issuer; what it says and does can be changed, as an attacker or a fault would."""

    url: str = ""
    person: dict[str, Any] = field(default_factory=lambda: {"sub": "ada", "tenant": "ours"})
    """Claims of who sits before the browser."""
    granted: str | None = "openid caveat:read"
    secret: str | None = SECRET
    methods: list[str] | None = None
    """How clients may authenticate, as its discovery document says."""
    claims: dict[str, Any] = field(default_factory=dict)
    """Claims of ID tokens that differ from what they should be."""
    discovery: dict[str, Any] = field(default_factory=dict)
    token_answer: Answer | None = None
    silent_seconds: float = 0
    asked: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def answer(self, asked: Asked) -> Answer:
        """The answer to any request."""
        place = urlsplit(asked.path)
        self.asked.append(place.path)
        if self.silent_seconds:
            time.sleep(self.silent_seconds)
        if place.path == "/.well-known/openid-configuration":
            return _json(
                {
                    "issuer": self.url,
                    "jwks_uri": f"{self.url}/keys",
                    "authorization_endpoint": f"{self.url}/authorize",
                    "token_endpoint": f"{self.url}/token",
                    **({} if self.methods is None else {"token_endpoint_auth_methods_supported": self.methods}),
                    **self.discovery,
                }
            )
        if place.path == "/keys":
            public = RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
            return _json({"keys": [public | {"kid": "k", "use": "sig", "alg": "RS256"}]})
        if place.path == "/authorize":
            return Answer(303, {"Location": self.signed_in(place.query)})
        return self.token_answer or self.exchanged(asked)

    def signed_in(self, query: str) -> str:
        """Where a browser goes that asks to sign in."""
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        assert (asked["client_id"], asked["response_type"]) == (CLIENT, "code")
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe()
        self.codes[code] = asked
        said = {"code": code, "state": asked["state"], "iss": self.url}
        return f"{asked['redirect_uri']}?{urlencode(said)}"

    def exchanged(self, asked: Asked) -> Answer:
        """The tokens for a code."""
        given = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
        began = self.codes.pop(given.get("code", ""), None)
        if not self._is_client(asked, given):
            return _json({"error": "invalid_client"}, 401)
        challenge = urlsafe_b64encode(sha256(given["code_verifier"].encode()).digest()).decode().rstrip("=")
        if began is None or challenge != began["code_challenge"] or given["redirect_uri"] != began["redirect_uri"]:
            return _json({"error": "invalid_grant"}, 400)
        found = {"access_token": "opaque", "token_type": "Bearer", "id_token": self.id_token(began["nonce"])}
        return _json(found | ({} if self.granted is None else {"scope": self.granted}))

    def id_token(self, nonce: str) -> str:
        """The ID token of a sign-in."""
        said = {"iss": self.url, "aud": CLIENT, "exp": time.time() + 60, "iat": time.time(), "nonce": nonce}
        said = {claim: value for claim, value in (said | self.person | self.claims).items() if value is not None}
        return jwt.encode(said, KEY, "RS256", headers={"kid": "k"})

    def _is_client(self, asked: Asked, given: dict[str, str]) -> bool:
        if self.secret is None:
            return given.get("client_id") == CLIENT
        if self.methods == ["client_secret_post"]:
            return (given.get("client_id"), given.get("client_secret")) == (CLIENT, self.secret)
        _, _, encoded = asked.headers.get("authorization", "").partition(" ")
        name, _, secret = b64decode(encoded).decode().partition(":")
        return (unquote(name), unquote(secret)) == (CLIENT, self.secret)


@contextmanager
def issuing() -> Iterator[Issuer]:
    """Runs an issuer."""
    issuer = Issuer()
    with serving(issuer.answer) as port:
        issuer.url = f"http://127.0.0.1:{port}"
        yield issuer


def _json(document: dict[str, Any], status: int = 200) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(document).encode())
