"""Signing in to the console with a real issuer on this machine, and what attacks on it come to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydantic import ValidationError
from werkzeug.test import TestResponse

from caveat_service import oidc, sessions
from caveat_service.settings import INSECURE, Settings
from caveat_storage import keys
from tests.service.issuer import CLIENT, SECRET, Issuer, issuing
from tests.service.test_console import TLS, keyed, page_of, post, sign_in, submitted
from tests.serving import Answer

CONSOLE = "https://localhost"
CALLBACK = "/sign-in/oidc/callback"


@pytest.fixture(scope="module", autouse=True)
def without_tls() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(INSECURE, "1")
        yield


@pytest.fixture(scope="module")
def shared_issuer() -> Iterator[Issuer]:
    with issuing() as found:
        yield found


@pytest.fixture
def issuer(shared_issuer: Issuer) -> Issuer:
    """The issuer as it was before any test."""
    shared_issuer.__dict__.update(Issuer(url=shared_issuer.url).__dict__)
    return shared_issuer


def settings_of(issuer: Issuer, **changed: Any) -> dict[str, Any]:
    return {
        "oidc_issuer": issuer.url, "oidc_audience": "https://api.example", "oidc_client_id": CLIENT,
        "oidc_client_secret": issuer.secret, "console_url": CONSOLE, "oidc_cooldown_seconds": 0, **changed,
    }  # fmt: skip


@pytest.fixture(scope="module")
def shared_app(tmp_path_factory: pytest.TempPathFactory, shared_issuer: Issuer) -> Iterator[Flask]:
    settings = settings_of(
        Issuer(url=shared_issuer.url), auth_failure_limit="1000/minute"
    )  # whatever a test made of it
    with keyed(tmp_path_factory.mktemp("service"), **settings) as app:
        yield app


@pytest.fixture
def app(shared_app: Flask, issuer: Issuer) -> Flask:
    """The service, which has asked the issuer nothing yet but its keys."""
    shared_app.extensions["caveat"].__dict__.pop("sign_in", None)
    return shared_app


def begun(browser: FlaskClient) -> str:
    """Where the issuer sends a browser back to that it signed in, as a path."""
    asked = browser.get("/sign-in/oidc", **TLS)
    assert asked.status_code == 303
    answered = httpx2.get(asked.location)
    assert answered.headers["location"].startswith(CONSOLE + CALLBACK)
    return str(answered.headers["location"].removeprefix(CONSOLE))


def signed_in(app: Flask) -> tuple[FlaskClient, TestResponse]:
    browser = app.test_client()
    return browser, browser.get(begun(browser), **TLS)


def test_who_the_issuer_names_sees_the_audits_of_their_tenant(app: Flask) -> None:
    database = app.extensions["caveat"].database
    ours = submitted(app, keys.issue(database, "ours", "ci", ["submit", "read"]), "our model")
    theirs = submitted(app, keys.issue(database, "theirs", "ci", ["submit", "read"]), "their secret model")
    browser, done = signed_in(app)
    assert (done.status_code, done.location) == (303, "/")
    page = page_of(browser.get("/", **TLS))
    assert ours in page
    assert "their secret model" not in page
    assert page_of(browser.get(f"/audits/{theirs}", **TLS), 404) == page_of(
        browser.get(f"/audits/{'0' * 26}", **TLS), 404
    )
    assert page_of(browser.get("/access", **TLS), 403)
    assert post(browser, "/sign-out").location == "/sign-in"
    assert browser.get("/", **TLS).status_code == 303


def test_the_form_names_the_issuer_beside_keys(app: Flask) -> None:
    page = page_of(app.test_client().get("/sign-in", **TLS))
    assert 'href="/sign-in/oidc"' in page
    assert "127.0.0.1" in page.replace("<wbr>", "")
    key = keys.issue(app.extensions["caveat"].database, "ours", "people", ["read"])
    assert sign_in(app, key).get("/", **TLS).status_code == 200


def test_what_is_asked_of_the_issuer_has_a_challenge_and_no_secret(app: Flask, issuer: Issuer) -> None:
    browser = app.test_client()
    first, second = (parse_qs(urlsplit(browser.get("/sign-in/oidc", **TLS).location).query) for _ in range(2))
    assert first["scope"] == ["openid caveat:read"]
    assert first["redirect_uri"] == [CONSOLE + CALLBACK]
    assert all(first[name] != second[name] for name in ("state", "nonce", "code_challenge"))
    cookie = browser.get_cookie(sessions.COOKIE, domain="localhost")
    assert cookie is not None
    assert cookie.secure
    assert cookie.http_only
    assert SECRET not in str(first) + cookie.value
    assert issuer.asked.count("/.well-known/openid-configuration") == 1


def test_the_host_that_a_request_names_is_not_where_codes_go(app: Flask) -> None:
    asked = app.test_client().get("/sign-in/oidc", base_url="https://evil.example")
    assert parse_qs(urlsplit(asked.location).query)["redirect_uri"] == [CONSOLE + CALLBACK]


def refused(answered: TestResponse, status: int, browser: FlaskClient) -> str:
    page = page_of(answered, status)
    assert 'role="alert"' in page
    assert browser.get("/", **TLS).status_code == 303
    return page.replace("<wbr>", "")


def test_an_answer_with_another_state_is_refused_and_ends_the_attempt(app: Flask, issuer: Issuer) -> None:
    browser = app.test_client()
    back = begun(browser)
    assert "does not belong" in refused(browser.get(f"{back}&state=other", **TLS), 403, browser)
    assert "No sign-in is under way" in refused(browser.get(back, **TLS), 403, browser)
    assert "/token" not in issuer.asked


def test_an_answer_to_another_browser_is_refused(app: Flask, issuer: Issuer) -> None:
    """Somebody who sends a victim the answer to their own sign-in does not sign the victim in as themselves."""
    back = begun(app.test_client())
    victim = app.test_client()
    refused(victim.get(back, **TLS), 403, victim)
    begun(victim)
    refused(victim.get(back, **TLS), 403, victim)
    assert "/token" not in issuer.asked


def test_a_code_is_taken_once(app: Flask, issuer: Issuer) -> None:
    browser = app.test_client()
    back = begun(browser)
    before = browser.get_cookie(sessions.COOKIE, domain="localhost")
    assert browser.get(back, **TLS).location == "/"
    assert page_of(browser.get(back, **TLS), 403), "this browser expects no answer any more"
    assert before is not None
    thief = app.test_client()
    thief.set_cookie(sessions.COOKIE, before.value, domain="localhost", secure=True)
    assert "does not take the code" in refused(thief.get(back, **TLS), 401, thief)
    assert issuer.asked.count("/token") == 2


def test_a_stolen_code_is_worth_nothing_without_its_verifier(app: Flask) -> None:
    stolen = parse_qs(urlsplit(begun(app.test_client())).query)["code"][0]
    thief = app.test_client()
    own = parse_qs(urlsplit(begun(thief)).query)["state"][0]
    page = refused(thief.get(f"{CALLBACK}?code={stolen}&state={own}", **TLS), 401, thief)
    assert "does not take the code" in page


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "other"},
        {"nonce": None},
        {"nonce": ["x"]},
        {"aud": "https://api.example"},
        {"aud": [CLIENT, "other"]},
        {"aud": None},
        {"azp": "other"},
        {"exp": 1_700_000_000},
        {"iss": "https://other.example"},
        {"sub": None},
    ],
    ids=str,
)
def test_a_token_that_is_not_for_this_sign_in_is_refused(app: Flask, issuer: Issuer, claims: dict[str, Any]) -> None:
    issuer.claims = claims
    browser, answered = signed_in(app)
    assert "not valid for this sign-in" in refused(answered, 401, browser)


def test_several_audiences_are_fine_where_the_token_was_issued_to_this_client(app: Flask, issuer: Issuer) -> None:
    issuer.claims = {"aud": [CLIENT, "other"], "azp": CLIENT}
    assert signed_in(app)[1].status_code == 303


@pytest.mark.parametrize("tenant", [None, "../ours", ["ours"], ""], ids=str)
def test_an_account_without_a_tenant_is_told_what_is_missing(app: Flask, issuer: Issuer, tenant: object) -> None:
    issuer.claims = {"tenant": tenant}
    browser, answered = signed_in(app)
    assert "the claim 'tenant' is missing" in refused(answered, 403, browser).replace("&#39;", "'")


@pytest.mark.parametrize(("granted", "claim", "status"), [
    ("openid", None, 403),
    (None, None, 303),
    ("openid", "caveat:read", 303),
    ("openid caveat:read", "openid", 403),
    ("openid caveat:admin", None, 303),
])  # fmt: skip
def test_scopes_are_those_of_the_token_or_those_that_were_granted(
    app: Flask, issuer: Issuer, granted: str | None, claim: str | None, status: int
) -> None:
    issuer.granted, issuer.claims = granted, {"scope": claim}
    browser, answered = signed_in(app)
    assert answered.status_code == status
    assert browser.get("/access", **TLS).status_code == (
        200 if "admin" in str(granted) else 403 if status == 303 else 303
    )


def test_what_was_asked_for_is_no_role(tmp_path: Path, issuer: Issuer) -> None:
    """Where roles decide, an account without roles may not read, whatever scope the console asks for."""
    with keyed(tmp_path, **settings_of(issuer, oidc_scope_claim="roles")) as app:
        assert signed_in(app)[1].status_code == 403
        issuer.person["roles"] = ["caveat:read"]
        assert signed_in(app)[1].status_code == 303


@pytest.mark.parametrize(
    "query", ["error=access_denied", "error=%3Cscript%3E", "", "code=", "x=%ff%00", "code=a&code=b"]
)
def test_an_answer_without_a_code_is_refused(app: Flask, query: str) -> None:
    browser = app.test_client()
    state = parse_qs(urlsplit(begun(browser)).query)["state"][0]
    page = page_of(browser.get(f"{CALLBACK}?{query}&state={state}", **TLS), 401 if "code=a" in query else 403)
    assert "script" not in page


def test_an_answer_of_another_issuer_is_refused(app: Flask) -> None:
    browser = app.test_client()
    back = begun(browser)
    page = refused(browser.get(f"{back}&iss=https%3A%2F%2Fevil.example", **TLS), 403, browser)
    assert "comes from another issuer" in page


def test_no_url_says_where_a_sign_in_leads(app: Flask) -> None:
    """It leads to the page that was asked for, which was one of this console."""
    for asked, after in (("/models?page_token=x", "/models?page_token=x"), ("//evil.example", "/"), ("/", "/")):
        browser = app.test_client()
        browser.get(asked, **TLS) if asked != "//evil.example" else browser.get(
            "/", environ_overrides={"PATH_INFO": asked}, **TLS
        )
        back = begun(browser)
        done = browser.get(f"{back}&next=https://evil.example/&return_to=//evil.example", **TLS)
        assert (done.status_code, done.location) == (303, after)


def test_a_sign_in_with_a_key_leads_to_the_page_that_was_asked_for(app: Flask) -> None:
    browser = app.test_client()
    assert browser.get("/models", **TLS).location == "/sign-in"
    key = keys.issue(app.extensions["caveat"].database, "ours", "people", ["read"])
    assert post(browser, "/sign-in", key=key).location == "/models"


def test_a_session_is_short_and_a_sign_in_shorter(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    assert timedelta(hours=1) >= sessions.OIDC_LASTS
    monkeypatch.setattr(sessions, "OIDC_LASTS", timedelta(seconds=-1))
    browser, done = signed_in(app)
    assert (done.status_code, browser.get("/", **TLS).status_code) == (303, 303)
    monkeypatch.setattr(sessions, "PENDING_SECONDS", -1.0)
    browser, done = signed_in(app)
    assert "No sign-in is under way" in refused(done, 403, browser)


def test_a_session_of_another_issuer_or_client_has_ended(app: Flask, tmp_path: Path, issuer: Issuer) -> None:
    browser, _ = signed_in(app)
    cookie = browser.get_cookie(sessions.COOKIE, domain="localhost")
    assert cookie is not None
    for changed, status in ({}, 200), ({"oidc_client_id": "other"}, 303), ({"oidc_client_id": None}, 303):
        with keyed(tmp_path, **settings_of(issuer, **changed)) as other:
            later = other.test_client()
            later.set_cookie(sessions.COOKIE, cookie.value, domain="localhost", secure=True)
            assert later.get("/", **TLS).status_code == status


def test_a_silent_issuer_is_waited_for_briefly_and_keys_work_on(
    app: Flask, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caveat_service.oidc.SECONDS", 0.2)
    monkeypatch.setattr("caveat_service.oidc_sign_in.SECONDS", 0.2)
    issuer.silent_seconds = 1
    browser, began = app.test_client(), time.monotonic()
    answered = browser.get("/sign-in/oidc", **TLS)
    assert time.monotonic() - began < 0.9
    assert "does not answer as it should" in refused(answered, 503, browser)
    assert answered.headers["Retry-After"] == "5"
    issuer.silent_seconds = 0
    back = begun(browser)
    issuer.silent_seconds = 1
    refused(browser.get(back, **TLS), 503, browser)
    key = keys.issue(app.extensions["caveat"].database, "ours", "people", ["read"])
    assert sign_in(app, key).get("/", **TLS).status_code == 200
    issuer.silent_seconds = 0
    assert signed_in(app)[1].status_code == 303


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500, body=b"{}"),
        Answer(200, body=b"<html>"),
        Answer(200, body=b"[]"),
        Answer(302, {"Location": "http://127.0.0.1:1/"}),
    ],
    ids=["fails", "a page", "a list", "elsewhere"],
)
def test_nonsense_of_the_issuer_signs_nobody_in(app: Flask, issuer: Issuer, answer: Answer) -> None:
    issuer.token_answer = answer
    browser, answered = signed_in(app)
    assert "does not answer as it should" in refused(answered, 503, browser)


def test_tokens_without_one_of_identity_sign_nobody_in(app: Flask, issuer: Issuer) -> None:
    issuer.token_answer = Answer(200, body=b'{"access_token": "x", "token_type": "Bearer"}')
    browser, answered = signed_in(app)
    assert "not valid for this sign-in" in refused(answered, 401, browser)


@pytest.mark.parametrize("discovery", [
    {"issuer": "https://other.example"}, {"token_endpoint": None}, {"authorization_endpoint": "file:///etc/passwd"},
    {"authorization_endpoint": "javascript:alert(1)"},
], ids=str)  # fmt: skip
def test_an_issuer_that_describes_another_is_not_asked(app: Flask, issuer: Issuer, discovery: dict[str, Any]) -> None:
    issuer.discovery = discovery
    browser = app.test_client()
    page = refused(browser.get("/sign-in/oidc", **TLS), 503, browser)
    assert "does not answer as it should" in page
    assert set(issuer.asked) <= {"/.well-known/openid-configuration"}


@pytest.mark.parametrize(("secret", "methods"), [(None, None), (SECRET, ["client_secret_post"]), (SECRET, None)])
def test_clients_with_and_without_a_secret_are_known(
    tmp_path: Path, issuer: Issuer, secret: str | None, methods: list[str] | None
) -> None:
    issuer.secret, issuer.methods = secret, methods
    with keyed(tmp_path, **settings_of(issuer)) as app:
        assert signed_in(app)[1].status_code == 303
    issuer.secret = "another"
    with keyed(tmp_path, **settings_of(issuer, oidc_client_secret=secret)) as app:
        assert signed_in(app)[1].status_code == 401


def test_failed_sign_ins_count_against_the_address(tmp_path: Path, issuer: Issuer) -> None:
    issuer.claims = {"nonce": "other"}
    with keyed(tmp_path, auth_failure_limit="2/minute", **settings_of(issuer)) as app:
        assert [signed_in(app)[1].status_code for _ in range(3)] == [401, 401, 429]


def test_few_requests_wait_for_the_issuer(app: Flask, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caveat_service.oidc_sign_in.PLACE_SECONDS", 0.01)
    sign = app.extensions["caveat"].sign_in
    for _ in range(4):
        assert sign._asking.acquire(blocking=False)
    browser = app.test_client()
    page = refused(browser.get("/sign-in/oidc", **TLS), 503, browser)
    assert "does not answer as it should" in page
    assert set(issuer.asked) <= {"/.well-known/openid-configuration"}
    assert issuer.asked == []


def test_without_a_client_there_is_no_such_page(tmp_path: Path) -> None:
    with keyed(tmp_path) as app:
        browser = app.test_client()
        for path in ("/sign-in/oidc", CALLBACK):
            assert page_of(browser.get(path, **TLS), 404 if path != CALLBACK else 403)
        assert "/sign-in/oidc" not in browser.get("/sign-in", **TLS).text


@pytest.mark.parametrize("missing", ["oidc_issuer", "console_url", "console_secret"])
def test_settings_that_cannot_sign_anybody_in_are_refused(missing: str) -> None:
    whole = {
        "auth": "keys", "oidc_issuer": "https://issuer.example", "oidc_audience": "https://api.example",
        "oidc_client_id": CLIENT, "console_url": CONSOLE, "console_secret": "x" * 32,
    }  # fmt: skip
    assert Settings(**whole).oidc_client_id == CLIENT
    with pytest.raises(ValidationError, match=f"requires CAVEAT_{missing.upper()}"):
        Settings(**whole | {missing: None})


def test_nobody_signs_in_without_tls_by_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INSECURE)
    for issuer, console in (("http://issuer.example", CONSOLE), ("https://issuer.example", "http://caveat.example")):
        with pytest.raises(ValidationError, match="has no TLS"):
            Settings(
                auth="keys", oidc_issuer=issuer, oidc_audience="a", oidc_client_id=CLIENT, console_url=console,
                console_secret="x" * 32,
            )  # fmt: skip


def test_a_tokens_length_is_bounded(app: Flask) -> None:
    with pytest.raises(ValueError, match="too long"):
        app.extensions["caveat"].issuer.claims("x" * (oidc.LONGEST + 1), CLIENT, wait=False)
