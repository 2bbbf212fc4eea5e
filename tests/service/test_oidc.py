"""Tokens of a real issuer on this machine: only valid tokens of the issuer for this service are accepted."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flask import Flask
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from pydantic import ValidationError

from caveat_service import issuer_keys
from caveat_service.settings import Settings
from caveat_service.state import EXTENSION
from caveat_storage import hash_chain, keys
from tests.api import api
from tests.serving import Answer, Asked, serving

AUDIENCE = "https://caveat.example"
RSA = {name: rsa.generate_private_key(65537, 2048) for name in ("first", "second", "stranger")}
EC = ec.generate_private_key(ec.SECP256R1())


def published(name: str) -> dict[str, Any]:
    key = EC if name == "curve" else RSA[name]
    algorithm = ECAlgorithm if name == "curve" else RSAAlgorithm
    made: dict[str, Any] = algorithm.to_jwk(key.public_key(), as_dict=True)  # type: ignore[arg-type]
    return made | {"kid": name, "use": "sig", "alg": "ES256" if name == "curve" else "RS256"}


@dataclass
class Provider:
    """An issuer: its published documents, and the number of requests for its keys."""

    url: str = ""
    names: list[str] = field(default_factory=lambda: ["first", "curve"])
    asked: int = 0
    down: bool = False
    place: str | None = None
    """URL of its keys according to its discovery document."""
    nonsense: Any = None
    """What it sends in place of its keys."""

    def answer(self, path: str) -> Any:
        if self.down:
            return None
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": self.place or f"{self.url}/keys"}
        self.asked += 1
        return self.nonsense if self.nonsense is not None else {"keys": [published(name) for name in self.names]}

    def token(self, name: str = "first", algorithm: str = "RS256", **changed: Any) -> str:
        claims = {
            "iss": self.url, "aud": AUDIENCE, "sub": "build-7", "exp": time.time() + 60,
            "tenant": "acme", "scope": "openid caveat:read caveat:submit",
        }  # fmt: skip
        claims = {claim: value for claim, value in (claims | changed).items() if value is not None}
        return jwt.encode(claims, EC if name == "curve" else RSA[name], algorithm, headers={"kid": name})


@pytest.fixture
def provider() -> Iterator[Provider]:
    served = Provider()

    def answered(asked: Asked) -> Answer:
        found = served.answer(asked.path)
        return Answer(503 if found is None else 200, body=json.dumps(found).encode())

    with serving(answered) as port:
        served.url = f"http://127.0.0.1:{port}"
        yield served


@pytest.fixture
def app(tmp_path: Path, provider: Provider) -> Iterator[Flask]:
    settings = {"oidc_issuer": provider.url, "oidc_audience": AUDIENCE, "oidc_cooldown_seconds": 0}
    with api(tmp_path, auth="keys", **settings) as app:
        yield app


def status(app: Flask, token: str, path: str = "/v1/audits") -> int:
    return app.test_client().get(path, headers={"Authorization": f"Bearer {token}"}).status_code


def part(content: dict[str, Any]) -> str:
    return urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def test_a_token_of_the_issuer_is_taken_and_so_is_a_key(app: Flask, provider: Provider) -> None:
    assert status(app, provider.token()) == 200
    assert status(app, provider.token("curve", "ES256")) == 200
    assert status(app, provider.token(aud=["https://other.example", AUDIENCE])) == 200
    assert provider.asked == 1
    assert status(app, keys.issue(app.extensions[EXTENSION].database, "acme", "ci", ["read"])) == 200
    assert status(app, "") == 401


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": 1_700_000_000},
        {"exp": None},
        {"nbf": 4_000_000_000},
        {"aud": "https://other.example"},
        {"aud": None},
        {"iss": "https://other.example"},
        {"iss": None},
        {"sub": None},
        {"tenant": None},
        {"tenant": ["acme"]},
        {"tenant": ""},
        {"tenant": "../acme"},
    ],
    ids=str,
)
def test_a_token_with_other_claims_is_refused(app: Flask, provider: Provider, changed: dict[str, Any]) -> None:
    assert status(app, provider.token(**changed)) == 401


def test_a_token_that_nobody_signed_is_refused(app: Flask, provider: Provider) -> None:
    _, claims, signature = provider.token().split(".")
    for algorithm in ("none", "None", "nOnE"):
        head = part({"alg": algorithm, "typ": "JWT", "kid": "first"})
        assert status(app, f"{head}.{claims}.") == 401
        assert status(app, f"{head}.{claims}.{signature}") == 401


def test_a_public_key_is_no_shared_secret(app: Flask, provider: Provider) -> None:
    import hashlib
    import hmac

    public = RSA["first"].public_key()
    for secret in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(published("first")).encode(),
    ):
        signed = f"{part({'alg': 'HS256', 'kid': 'first'})}.{provider.token().split('.')[1]}"
        seal = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        assert status(app, f"{signed}.{urlsafe_b64encode(seal).decode().rstrip('=')}") == 401


def test_a_strangers_signature_and_a_changed_token_are_refused(app: Flask, provider: Provider) -> None:
    head, claims, signature = provider.token("stranger").split(".")
    known = part({"alg": "RS256", "kid": "first"})
    assert status(app, f"{head}.{claims}.{signature}") == 401  # a key that the issuer does not publish
    assert status(app, f"{known}.{claims}.{signature}") == 401
    carried = part({"alg": "RS256", "kid": "first", "jwk": published("stranger"), "jku": "http://127.0.0.1:1/keys"})
    assert status(app, f"{carried}.{claims}.{signature}") == 401
    head, claims, signature = provider.token().split(".")
    other = provider.token(tenant="other").split(".")[1]
    assert status(app, f"{head}.{other}.{signature}") == 401
    assert status(app, provider.token("curve", "ES256").replace(".", "..", 1)) == 401
    for garbage in ("a.b.c", "....", "é.è.ç", "x" * 100_000, "\x00"):
        assert app.test_client().get("/v1/audits", headers={"Authorization": f"Bearer {garbage}"}).status_code == 401


def test_bad_tokens_are_limited_and_good_ones_are_served(app: Flask, provider: Provider) -> None:
    other = provider.token(aud="https://other.example")
    assert [status(app, other) for _ in range(32)] == [401] * 30 + [429] * 2
    assert status(app, provider.token()) == 200


def test_a_key_that_took_over_is_found_and_one_that_was_withdrawn_is_not(app: Flask, provider: Provider) -> None:
    old, new = provider.token("first"), provider.token("second")
    assert (status(app, old), status(app, new)) == (200, 401)
    provider.names = ["first", "second"]
    assert (status(app, old), status(app, new)) == (200, 200)
    provider.names = ["second"]
    assert status(app, provider.token("stranger")) == 401  # after the keys were fetched again
    assert (status(app, old), status(app, new)) == (401, 200)


def test_a_scope_is_what_the_claim_says(app: Flask, provider: Provider) -> None:
    assert status(app, provider.token(scope="read submit")) == 403
    assert status(app, provider.token(scope=["caveat:read"])) == 200
    assert status(app, provider.token(scope={"caveat:read": 1})) == 403
    assert status(app, provider.token(scope=None)) == 403
    assert status(app, provider.token(), "/v1/audit-log") == 403
    asked = app.test_client().get(
        "/v1/audit-log", headers={"Authorization": f"Bearer {provider.token(scope='caveat:admin')}"}
    )
    with asked:
        assert asked.status_code == 200


def test_the_log_says_whose_token_it_was(app: Flask, provider: Provider) -> None:
    headers = {"Authorization": f"Bearer {provider.token(scope='caveat:admin')}"}
    client = app.test_client()
    blob = f"/v1/blobs/{hash_chain.digest('x')}"
    client.put(blob, data=b'"x"', headers=headers)
    assert client.post("/v1/models", json={"blob": blob.rpartition("/")[2]}, headers=headers).status_code == 202
    with client.get("/v1/audit-log", headers=headers) as answer:
        log = hash_chain.account(answer.data.splitlines(keepends=True))
    assert (log.tenant, log.principals) == ("acme", {"oidc:build-7"})


def test_an_issuer_that_is_away_is_told_and_keys_work_on(app: Flask, provider: Provider) -> None:
    provider.down = True
    answer = app.test_client().get("/v1/audits", headers={"Authorization": f"Bearer {provider.token()}"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert status(app, keys.issue(app.extensions[EXTENSION].database, "acme", "ci", ["read"])) == 200
    assert status(app, "no.token.atall") == 401
    provider.down = False
    assert status(app, provider.token()) == 200
    provider.down = True
    assert status(app, provider.token()) == 200  # with cached keys


@pytest.mark.parametrize("nonsense", [[], {"keys": [1]}, {"keys": [published("first") | {"kid": ["first"]}]}])
def test_an_issuer_that_sent_nonsense_once_is_asked_again(app: Flask, provider: Provider, nonsense: Any) -> None:
    """A key with a list as its id ended the thread that fetches keys, and all tokens were refused from then on."""
    provider.nonsense = nonsense
    assert status(app, provider.token()) == 503
    provider.nonsense = None
    assert status(app, provider.token()) == 200


def test_old_keys_stay_valid_while_the_issuer_is_away(
    app: Flask, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_keys, "FRESH_SECONDS", 0)
    assert status(app, provider.token()) == 200
    provider.down = True
    for _ in range(3):
        assert status(app, provider.token()) == 200
        time.sleep(0.1)
    assert status(app, provider.token("stranger")) == 503, "the issuer may have a new key"


def test_an_issuer_is_not_asked_again_and_again(tmp_path: Path, provider: Provider) -> None:
    settings = {"oidc_issuer": provider.url, "oidc_audience": AUDIENCE, "oidc_cooldown_seconds": 60}
    with api(tmp_path, auth="keys", **settings) as app:
        assert status(app, provider.token()) == 200
        assert {status(app, provider.token("stranger")) for _ in range(5)} == {401}
        assert provider.asked == 1


def test_an_issuers_keys_are_no_file_of_this_machine(app: Flask, provider: Provider, tmp_path: Path) -> None:
    published = tmp_path / "keys"
    provider.place = published.as_uri()
    token = provider.token()
    published.write_text(json.dumps(provider.answer("/keys")))
    assert status(app, token) == 503


def test_settings_that_would_let_too_many_in_are_refused() -> None:
    with pytest.raises(ValidationError, match="CAVEAT_OIDC_AUDIENCE"):
        Settings(auth="keys", oidc_issuer="https://issuer.example")
    with pytest.raises(ValidationError, match="CAVEAT_AUTH is off"):
        Settings(oidc_issuer="https://issuer.example", oidc_audience=AUDIENCE)
    with pytest.raises(ValidationError):
        Settings(auth="keys", oidc_issuer="file:///etc/passwd", oidc_audience=AUDIENCE)
