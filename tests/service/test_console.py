"""The console: what it shows, to whom, and what attacks on it come to."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import html5lib
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from caveat_reports.canonical import canonical
from caveat_service import console, sessions
from caveat_spec.problem import ProblemDetails
from caveat_spec.report import Report, Verdict
from caveat_storage import job_state, keys, webhooks
from caveat_storage.job_records import Database
from tests.api import api
from tests.client import rated
from tests.reports.test_annexes import comparison, of
from tests.service.analyst import analysed, claimed
from tests.service.test_corrupt_bytes import place_of
from tests.worker.live import MODEL, TABLE, audit, digest, postgresql

SECRET = "not a secret outside of this test, but long"
TLS = {"base_url": "https://localhost"}


@contextmanager
def keyed(folder: Path, **settings: object) -> Iterator[Flask]:
    with api(folder, auth="keys", **{"console_secret": SECRET, **settings}) as app:
        yield app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    with keyed(tmp_path) as app:
        yield app


@pytest.fixture
def database(app: Flask) -> Database:
    found: Database = app.extensions["caveat"].database
    return found


def sign_in(app: Flask, key: str) -> FlaskClient:
    """A browser that signed in with a key."""
    browser = app.test_client()
    done = post(browser, "/sign-in", key=key)
    assert (done.status_code, done.location) == (303, "/")
    return browser


def post(browser: FlaskClient, path: str, headers: dict[str, str] | None = None, **fields: str) -> TestResponse:
    """Sends the form of a page, with its token."""
    page = browser.get("/sign-in", **TLS).text if path == "/sign-in" else browser.get("/", **TLS).text
    token = re.findall(r'name="token" value="([^"]+)"', page)[0]
    return browser.post(path, data={"token": token, **fields}, headers=headers, **TLS)


def submitted(app: Flask, key: str, title: str = "the loan model", **more: object) -> str:
    """An audit of the key's tenant."""
    client, bearer = app.test_client(), {"Authorization": f"Bearer {key}"}
    for data in (MODEL, TABLE):
        client.put(f"/v1/blobs/{digest(data)}", data=data, headers=bearer)
    answered = client.post("/v1/audits", json=audit() | {"about": {"title": title}} | more, headers=bearer)
    assert answered.status_code == 202, answered.text
    found: str = answered.json["id"]
    return found


def ended(app: Flask, job: str, report: Report) -> None:
    """Ends an audit with a report, as a worker does."""
    context = app.extensions["caveat"]
    stored = canonical(report)
    context.blobs.put(io.BytesIO(stored), digest(stored))
    lease = job_state.claim(context.database, job, worker="w", lasts=timedelta(minutes=1))
    assert lease is not None
    assert job_state.succeed(context.database, lease, {"outcome": report.verdict.outcome}, digest(stored))


def loans(ratio: float) -> Report:
    metrics = {"selection_rate_ratio": {"value": ratio, "interval": (ratio - 0.05, ratio + 0.05)}}
    return of([comparison("by_race", ["race"], {("white",): (100, 80), ("black",): (100, 60)}, metrics=metrics)])


@pytest.fixture
def key(database: Database) -> str:
    return keys.issue(database, "ours", "people", ["submit", "read"])


def page_of(answered: TestResponse, status: int = 200) -> str:
    assert answered.status_code == status, answered.text
    assert answered.mimetype == "text/html"
    html5lib.HTMLParser(strict=True).parse(answered.text)
    return answered.text


def test_audits_are_listed_with_state_and_verdict(app: Flask, key: str) -> None:
    first, second = submitted(app, key), submitted(app, key, "<script>alert(1)</script>")
    ended(app, first, loans(0.7).model_copy(update={"verdict": Verdict(outcome="fail", lines=[])}))
    page = page_of(sign_in(app, key).get("/", **TLS))
    assert page.index(second) < page.index(first)
    assert "fails" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "data-live" in page
    assert re.search(r"queued <progress", page)


def test_an_audit_shows_its_state_its_problem_or_its_report(app: Flask, key: str, database: Database) -> None:
    browser = sign_in(app, key)
    job = submitted(app, key)
    assert "Queued: queued" in page_of(browser.get(f"/audits/{job}", **TLS))
    lease = job_state.claim(database, job, worker="w", lasts=timedelta(minutes=1))
    assert lease is not None
    job_state.fail(database, lease, ProblemDetails.of("bad-model", 422, "The model has no layer.", "Export it anew."))
    page = page_of(browser.get(f"/audits/{job}", **TLS))
    assert "The model has no layer. Export it anew." in page
    assert page_of(browser.get(f"/audits/{job}/report", **TLS), 404)
    done = submitted(app, key)
    ended(app, done, loans(0.7))
    assert f'href="/audits/{done}/report"' in page_of(browser.get(f"/audits/{done}", **TLS))
    assert "Selection rate" in page_of(browser.get(f"/audits/{done}/report", **TLS))


def test_a_history_has_the_audits_of_the_same_question(app: Flask, key: str) -> None:
    jobs = []
    for ratio in (0.7, 0.8, 0.9):
        jobs.append(submitted(app, key))
        ended(app, jobs[-1], loans(ratio))
    other = submitted(app, key, "another model")
    ended(app, other, loans(0.1))
    page = page_of(sign_in(app, key).get(f"/audits/{jobs[0]}/history", **TLS))
    assert other not in page
    positions = [page.index(f"{ratio} ({ratio - 0.05:.2g}") for ratio in (0.7, 0.8, 0.9)]
    assert positions == sorted(positions)


def test_two_audits_stand_side_by_side(app: Flask, key: str) -> None:
    before, now = submitted(app, key), submitted(app, key)
    ended(app, before, loans(0.7))
    ended(app, now, loans(0.9))
    page = page_of(sign_in(app, key).get(f"/compare?before={before}&now={now}", **TLS))
    assert "+0.200" in page
    assert page_of(sign_in(app, key).get(f"/compare?before={before}&now=x", **TLS), 404)


def test_models_and_example_sets_are_listed_with_digests(app: Flask, key: str) -> None:
    submitted(app, key)
    bearer = {"Authorization": f"Bearer {key}"}
    app.test_client().post("/v1/models", json={"name": "loans", "blob": digest(MODEL)}, headers=bearer)
    sets = {"name": "people", "examples": {"table": digest(TABLE), "features": ["a"]}}
    assert app.test_client().post("/v1/examples", json=sets, headers=bearer).status_code == 202
    browser = sign_in(app, key)
    assert digest(MODEL) in page_of(browser.get("/models", **TLS)).replace("<wbr>", "")
    assert digest(TABLE) in page_of(browser.get("/examples", **TLS)).replace("<wbr>", "")


def studied(app: Flask, key: str) -> str:
    """A study of an audit of the key's tenant."""
    job = submitted(app, key)
    ended(app, job, rated.report())
    bearer = {"Authorization": f"Bearer {key}"}
    made = app.test_client().post("/v1/studies", json={"audit": job, "raters": 3}, headers=bearer)
    assert made.status_code == 201, made.text
    found: str = made.json["study"]["id"]
    assert (
        made.json["links"][0]["path"].rpartition("/")[2] not in sign_in(app, key).get(f"/studies/{found}", **TLS).text
    )
    return found


def test_a_study_is_shown_from_its_forms_to_what_it_came_to(app: Flask, key: str, database: Database) -> None:
    browser = sign_in(app, key)
    assert "There are no studies yet" in page_of(browser.get("/studies", **TLS))
    study = studied(app, key)
    listed = page_of(browser.get("/studies", **TLS))
    assert f'href="/studies/{study}"' in listed
    assert "0 of 18" in listed
    page = page_of(browser.get(f"/studies/{study}", **TLS))
    assert "0 of 3 raters answered 0 of 18 tasks" in page
    assert f'href="/studies/{study}/forms/3"' in page
    assert page_of(browser.get(f"/studies/{study}/forms/3", **TLS)).count('<section class="task"') == 6
    assert "1 to 3" in page_of(browser.get(f"/studies/{study}/forms/4", **TLS), 404)
    assert "still takes answers" in page_of(browser.get(f"/studies/{study}/findings", **TLS), 409)
    bearer = {"Authorization": f"Bearer {key}"}
    app.test_client().post(f"/v1/studies/{study}:close", headers=bearer)
    page = page_of(browser.get(f"/studies/{study}", **TLS))
    assert "are being analysed" in page
    assert "data-live" in page
    analysed(database, "ours", study)
    page = page_of(browser.get(f"/studies/{study}", **TLS))
    assert f'href="/studies/{study}/findings"' in page
    assert "data-live" not in page
    assert f'href="/studies/{study}/findings"' in page_of(browser.get("/studies", **TLS))
    shown = browser.get(f"/studies/{study}/findings", **TLS)
    assert "<h1>" in page_of(shown)
    assert "default-src 'none'" in shown.headers["Content-Security-Policy"]


def test_studies_are_listed_page_by_page(app: Flask, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "PAGE", 1)
    first, second = studied(app, key), studied(app, key)
    browser = sign_in(app, key)
    page = page_of(browser.get("/studies", **TLS))
    assert second in page
    assert f"/studies/{first}" not in page
    older = re.findall(r'href="(/studies\?page_token=[^"]+)"', page)[0]
    assert f"/studies/{first}" in page_of(browser.get(older, **TLS))


def test_an_analysis_that_failed_is_said_with_what_to_do(app: Flask, key: str, database: Database) -> None:
    study = studied(app, key)
    app.test_client().post(f"/v1/studies/{study}:close", headers={"Authorization": f"Bearer {key}"})
    lease = claimed(database, "ours", study)
    assert job_state.fail(database, lease, ProblemDetails.of("job-failed", 500, "It broke.", "Repeat it."))
    browser = sign_in(app, key)
    assert "It broke. Repeat it." in page_of(browser.get(f"/studies/{study}", **TLS))
    assert "the analysis failed" in page_of(browser.get("/studies", **TLS))


@pytest.mark.parametrize("path", ["", "/findings", "/forms/1"])
def test_a_study_of_another_tenant_is_not_found(app: Flask, key: str, database: Database, path: str) -> None:
    theirs = studied(app, keys.issue(database, "theirs", "ci", ["submit", "read"]))
    browser = sign_in(app, key)
    answered, nothing = (browser.get(f"/studies/{one}{path}", **TLS) for one in (theirs, "0" * 26))
    assert page_of(answered, 404) == page_of(nothing, 404)
    assert theirs not in page_of(browser.get("/studies", **TLS))
    assert app.test_client().get(f"/studies/{theirs}{path}", **TLS).location == "/sign-in"


def test_keys_and_webhooks_are_for_admins(app: Flask, key: str, database: Database) -> None:
    webhooks.register(database, "ours", "https://hooks.example/caveat", ["audit.failed"])
    webhooks.register(database, "theirs", "https://theirs.example/", ["audit.failed"])
    keys.issue(database, "theirs", "their-key", ["read"])
    browser = sign_in(app, key)
    assert page_of(browser.get("/access", **TLS), 403)
    assert "/access" not in browser.get("/", **TLS).text
    admin = keys.issue(database, "ours", "boss", ["admin"])
    page = page_of(sign_in(app, admin).get("/access", **TLS))
    assert "https://hooks.example/caveat" in page.replace("<wbr>", "")
    assert "their" not in page
    assert not any(issued.split("_")[2] in page for issued in (admin, key))


PATHS = ["/", "/audits/{job}", "/audits/{job}/report", "/audits/{job}/history", "/compare?before={job}&now={job}"]


@pytest.mark.parametrize("path", [*PATHS, "/models", "/examples", "/studies", "/access"])
def test_without_a_session_there_is_only_the_form(app: Flask, key: str, path: str) -> None:
    job = submitted(app, key)
    answered = app.test_client().get(path.format(job=job), **TLS)
    assert (answered.status_code, answered.location) == (303, "/sign-in")
    bearer = app.test_client().get(path.format(job=job), headers={"Authorization": f"Bearer {key}"}, **TLS)
    assert bearer.status_code == 303


@pytest.mark.parametrize("path", PATHS[1:])
def test_what_is_another_tenant_s_is_not_found(app: Flask, key: str, database: Database, path: str) -> None:
    theirs = submitted(app, keys.issue(database, "theirs", "ci", ["submit", "read"]), "their secret model")
    ended(app, theirs, loans(0.7))
    browser = sign_in(app, key)
    answered = browser.get(path.format(job=theirs), **TLS)
    nothing = browser.get(path.format(job="0" * 26), **TLS)
    assert page_of(answered, 404) == page_of(nothing, 404)
    assert "their secret model" not in browser.get("/", **TLS).text


def test_a_wrong_key_is_refused_and_counted(tmp_path: Path) -> None:
    with keyed(tmp_path, auth_failure_limit="2/minute") as app:
        browser = app.test_client()
        statuses = [post(browser, "/sign-in", key=f"caveat_{i}_x").status_code for i in range(3)]
        assert statuses == [401, 401, 429]
        assert 'role="alert"' in post(browser, "/sign-in", key="").text


def test_a_key_that_may_not_read_cannot_sign_in(app: Flask, database: Database) -> None:
    done = post(app.test_client(), "/sign-in", key=keys.issue(database, "ours", "ci", ["submit"]))
    assert done.status_code == 403


def test_a_session_ends_with_its_key_with_its_time_and_by_signing_out(
    app: Flask, key: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = sign_in(app, key)
    assert post(browser, "/sign-out").location == "/sign-in"
    assert browser.get("/", **TLS).status_code == 303
    monkeypatch.setattr(sessions, "LASTS", timedelta(seconds=-1))
    assert sign_in(app, key).get("/", **TLS).status_code == 303
    monkeypatch.undo()
    browser = sign_in(app, key)
    keys.revoke(database, key.split("_")[1])
    assert browser.get("/", **TLS).status_code == 303


def test_the_cookie_is_for_this_host_alone_and_names_no_secret(app: Flask, key: str) -> None:
    browser = app.test_client()
    cookie = post(browser, "/sign-in", key=key).headers["Set-Cookie"]
    assert cookie.startswith("__Host-caveat=")
    assert all(part in cookie for part in ("Secure", "HttpOnly", "SameSite=Lax", "Path=/"))
    assert "Domain" not in cookie
    assert key.split("_")[2] not in cookie
    assert key.split("_")[2] not in browser.get("/", **TLS).text


def test_a_planted_or_changed_cookie_is_none(app: Flask, key: str) -> None:
    """Whoever plants a session before the sign-in does not share it afterwards; whoever changes one has none."""
    browser = app.test_client()
    browser.get("/sign-in", **TLS)
    planted = browser.get_cookie(sessions.COOKIE, domain="localhost")
    post(browser, "/sign-in", key=key)
    signed = browser.get_cookie(sessions.COOKIE, domain="localhost")
    assert planted is not None
    assert signed is not None
    for value in (planted.value, signed.value[:-2] + "xx", "." + signed.value):
        thief = app.test_client()
        thief.set_cookie(sessions.COOKIE, value, domain="localhost", secure=True)
        assert thief.get("/", **TLS).status_code == 303


@pytest.mark.parametrize("path", ["/sign-in", "/sign-out"])
def test_a_forged_form_does_nothing(app: Flask, key: str, path: str) -> None:
    browser = sign_in(app, key) if path == "/sign-out" else app.test_client()
    for fields in ({}, {"token": ""}, {"token": "x" * 43}, {"token": "é"}):
        assert page_of(browser.post(path, data={"key": key, **fields}, **TLS), 403)
    assert post(browser, path, {"Origin": "https://evil.example"}, key=key).status_code == 403
    assert browser.get("/", **TLS).status_code == (200 if path == "/sign-out" else 303)


def test_a_large_form_is_refused(app: Flask) -> None:
    assert app.test_client().post("/sign-in", data={"key": "x" * 100_000}, **TLS).status_code == 413


@pytest.mark.parametrize("query", ["state=none", "page_token=x", "page_token=' OR 1=1"])
def test_a_nonsense_query_is_a_page_with_a_remedy(app: Flask, key: str, query: str) -> None:
    assert "There is no such page" in page_of(sign_in(app, key).get(f"/?{query}", **TLS), 422)


def test_pages_load_nothing_and_are_kept_nowhere(app: Flask, key: str) -> None:
    submitted(app, key)
    answered = sign_in(app, key).get("/", **TLS)
    policy = answered.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answered.headers["Cache-Control"] == "no-store"
    assert answered.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"(?:href|src|action)=\"(?:https?:)?//", answered.text)


@pytest.mark.parametrize("damaged", [True, False], ids=["damaged", "gone"])
def test_bytes_that_are_not_what_they_were_are_no_page(app: Flask, key: str, damaged: bool) -> None:
    """The API answered with a problem, and so did the console, in a browser."""
    job, report = submitted(app, key), loans(0.7)
    ended(app, job, report)
    browser, place = sign_in(app, key), place_of(app, canonical(report))
    place.write_bytes(canonical(loans(0.9))) if damaged else place.unlink()
    for path in PATHS[1:]:
        answered = browser.get(path.format(job=job), **TLS)
        page = page_of(answered, 500).replace("<wbr>", "")
        assert digest(canonical(report)) in page, path
        assert "0.9" not in page
        assert "-bytes>; rel" in answered.headers["Link"]


def test_examples_of_a_url_are_listed_with_their_digest(tmp_path: Path) -> None:
    """The whole URL stood in the column of digests."""
    with keyed(tmp_path, source_allow="https://models.example/") as app:
        key = keys.issue(app.extensions["caveat"].database, "ours", "people", ["submit", "read"])
        url = f"https://models.example/a#{digest(TABLE).replace(':', '=')}"
        sets = {"name": "people", "examples": {"table": url, "features": ["a"]}}
        bearer = {"Authorization": f"Bearer {key}"}
        assert app.test_client().post("/v1/examples", json=sets, headers=bearer).status_code == 202
        page = page_of(sign_in(app, key).get("/examples", **TLS)).replace("<wbr>", "")
    assert digest(TABLE) in page
    assert "models.example" not in page


@pytest.mark.slow
def test_text_with_a_zero_byte_is_no_id_and_no_key(tmp_path: Path) -> None:
    """PostgreSQL does not even look for it: the service answered with an internal error."""
    with postgresql() as url, keyed(tmp_path, database_url=url) as app:
        key = keys.issue(app.extensions["caveat"].database, "ours", "people", ["read"])
        assert page_of(post(app.test_client(), "/sign-in", key="caveat_\0_x"), 401)
        assert page_of(sign_in(app, key).get("/compare?now=%00&before=%00", **TLS), 404)


def test_long_lists_have_pages(app: Flask, key: str) -> None:
    jobs = [submitted(app, key) for _ in range(27)]
    browser = sign_in(app, key)
    page = browser.get("/", **TLS).text
    older = re.findall(r'href="(/\?page_token=[^"]+)"', page)
    assert len(older) == 1
    rest = browser.get(older[0], **TLS).text
    assert [job in page for job in jobs] == [False] * 2 + [True] * 25
    assert [job in rest for job in jobs] == [True] * 2 + [False] * 25


def test_a_service_without_a_secret_says_how_to_turn_the_console_on(tmp_path: Path) -> None:
    with keyed(tmp_path, console_secret=None) as app:
        page = page_of(app.test_client().get("/", **TLS), 404)
        assert "CAVEAT_CONSOLE_SECRET" in page.replace("<wbr>", "")


def test_a_local_service_needs_no_sign_in_and_listens_to_no_other_host(tmp_path: Path) -> None:
    with api(tmp_path) as app:
        browser = app.test_client()
        assert "There are no audits yet" in page_of(browser.get("/"))
        assert browser.get("/sign-in").location == "/"
        assert page_of(browser.get("/", headers={"Host": "evil.example"}), 421)
        assert page_of(browser.get("/access"))
        assert browser.post("/sign-out").status_code == 403
