"""No access without a valid key, and none to other tenants' data, on every route."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from caveat_spec import openapi
from caveat_spec.openapi import OPERATIONS, RATERS, JobsQuery, Operation
from caveat_storage import hash_chain, job_records, keys, webhooks
from caveat_storage.job_records import Database
from tests.api import api
from tests.worker.live import MODEL, TABLE, audit, digest

GUARDED = [operation for operation in OPERATIONS if operation.scope]
OPEN = [operation for operation in OPERATIONS if not operation.scope and operation.tag != RATERS]
LINKED = [operation for operation in OPERATIONS if operation.tag == RATERS]
NAMES = [operation.name for operation in GUARDED]
WEBHOOKS: dict[str, str] = {}
"""Audit of another tenant → webhook of that tenant."""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    with api(tmp_path, auth="keys") as app:
        yield app


@pytest.fixture
def database(app: Flask) -> Database:
    found: Database = app.extensions["caveat"].database
    return found


@pytest.fixture
def theirs(app: Flask, database: Database) -> str:
    """An audit of another tenant, whose bytes are stored too."""
    key = keys.issue(database, "theirs", "ci", ["submit", "read"])
    client = app.test_client()
    for data in (MODEL, TABLE):
        client.put(f"/v1/blobs/{digest(data)}", data=data, headers=bearer(key))
    found: str = client.post("/v1/audits", json=audit(), headers=bearer(key)).json["id"]
    WEBHOOKS[found] = webhooks.register(database, "theirs", "https://example.org/hook", ["audit.failed"])[0].id
    return found


def test_a_method_that_is_not_served_is_told_so_where_no_key_is_needed(app: Flask) -> None:
    for path in ("/healthz", "/problems/not-found", f"/rate/{'0' * 24}", f"/rate/{'0' * 24}/1"):
        assert app.test_client().open(path, method="TRACE").status_code == 405
    assert app.test_client().open("/v1/audits", method="TRACE").status_code == 401


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def identifiers(job_id: str) -> dict[str, str]:
    """What stands in paths about the resources of an audit's tenant."""
    webhook = WEBHOOKS.get(job_id, job_id)
    return {
        "job_id": job_id, "webhook_id": webhook, "digest": digest(MODEL), "concept": "stripes", "layer": "block",
        "study_id": job_id, "rater": "1",
    }  # fmt: skip


def ask(client: FlaskClient, operation: Operation, job_id: str, headers: dict[str, str]) -> Any:
    """Calls the operation on resources of another tenant."""
    path = operation.path.format(**identifiers(job_id))
    sent: dict[str, Any] = {}
    if operation.name == "create_audit":
        sent = {"json": audit()}
    elif operation.name == "create_model":
        sent = {"json": {"blob": digest(MODEL)}}
    elif operation.name == "create_examples":
        sent = {"json": {"examples": {"arrays": digest(MODEL)}}}
    elif operation.name == "create_study":
        sent = {"json": {"audit": job_id}}
    elif operation.name == "patch_upload":
        headers = headers | {"Upload-Offset": "0"}
    elif operation.name == "create_webhook":
        sent = {"json": {"url": "https://example.org/hook"}}
    return client.open(path, method=operation.method, headers=headers, **sent)


@pytest.mark.parametrize("operation", GUARDED, ids=NAMES)
def test_nothing_is_given_without_a_valid_key(
    app: Flask, database: Database, theirs: str, operation: Operation
) -> None:
    expired = keys.issue(database, "theirs", "old", ["submit", "read", "admin"], lasts=timedelta(seconds=-1))
    revoked = keys.issue(database, "theirs", "gone", ["admin"])
    assert keys.revoke(database, revoked.split("_")[1])
    forged = revoked[:-1] + ("0" if revoked[-1] != "0" else "1")
    for headers in (
        {},
        bearer("x"),
        bearer(""),
        bearer(expired),
        bearer(revoked),
        bearer(forged),
        {"Authorization": "Basic x"},
    ):
        refused = ask(app.test_client(), operation, theirs, headers)
        assert (refused.status_code, refused.mimetype) == (401, "application/problem+json")
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("operation", GUARDED, ids=NAMES)
def test_nothing_of_another_tenant_is_there(app: Flask, database: Database, theirs: str, operation: Operation) -> None:
    key = keys.issue(database, "mine", "ci", ["submit", "read", "admin"])
    answer = ask(app.test_client(), operation, theirs, bearer(key))
    if operation.query is JobsQuery:
        assert answer.json == {operation.tag: [], "next_page_token": None}
    elif operation.name == "get_audit_log":
        assert hash_chain.account(answer.data.splitlines(keepends=True)).tenant == "mine"
        answer.close()
    elif operation.name == "get_upload":
        assert answer.json == {"digest": digest(MODEL), "offset": 0, "complete": False}
    elif operation.name == "list_studies":
        assert answer.json == {"studies": [], "next_page_token": None}
    elif operation.name == "list_webhooks":
        assert answer.json == {"webhooks": []}
    elif operation.name == "create_webhook":
        assert answer.status_code == 201  # a webhook of its own
    elif operation.name in ("put_blob", "patch_upload"):
        assert (
            answer.status_code == 422
        )  # the empty body has another digest: knowing a digest gives no access to its bytes
    elif operation.name.startswith("create_") and operation.name != "create_study":
        assert answer.status_code == 422
        assert "that you uploaded" in answer.json["errors"][0]["detail"]
    else:
        assert answer.status_code == 404
    record = job_records.get(database, "theirs", "audit", theirs)
    assert record is not None
    assert record.state == "queued"
    assert len(webhooks.registered(database, "theirs")) == 1


@pytest.mark.parametrize("operation", GUARDED, ids=NAMES)
def test_a_key_does_only_what_its_scopes_allow(
    app: Flask, database: Database, theirs: str, operation: Operation
) -> None:
    other = "read" if operation.scope == "submit" else "submit"
    narrow = keys.issue(database, "theirs", "narrow", [other])  # type: ignore[list-item]
    refused = ask(app.test_client(), operation, theirs, bearer(narrow))
    assert refused.status_code == 403
    assert f"'{operation.scope}'" in refused.json["remedy"]
    admin = keys.issue(database, "theirs", "admin", ["admin"])
    with ask(app.test_client(), operation, theirs, bearer(admin)) as allowed:
        assert allowed.status_code not in (401, 403)


@pytest.mark.parametrize("operation", OPEN, ids=lambda operation: operation.name)
def test_what_probes_and_people_look_at_is_open(app: Flask, operation: Operation) -> None:
    assert app.test_client().get(operation.path).status_code == 200
    assert app.test_client().get("/docs").status_code == 200


@pytest.mark.parametrize("operation", LINKED, ids=lambda operation: operation.name)
def test_what_raters_see_needs_a_link_and_no_key(app: Flask, database: Database, operation: Operation) -> None:
    path = operation.path.format(token="0" * 24, task="1")
    key = keys.issue(database, "mine", "ci", ["admin"])
    for headers in ({}, bearer(key)):
        assert app.test_client().open(path, method=operation.method, headers=headers).status_code == 404


@pytest.mark.parametrize(
    ("host", "name", "status"),
    [
        ("127.0.0.1", "localhost:8000", 200),
        ("127.0.0.1", "127.0.0.1:8000", 200),
        ("::1", "[::1]:8000", 200),
        ("127.0.0.1", "evil.example:8000", 421),
        ("127.0.0.1", "127.0.0.1.evil.example", 421),
        ("localhost", "localhost.evil.example", 421),
        ("0.0.0.0", "caveat-api:8000", 200),
    ],
)
def test_a_page_in_a_browser_cannot_name_itself_after_a_service_without_keys(
    tmp_path: Path, host: str, name: str, status: int
) -> None:
    """DNS rebinding: the name of a web page resolves to 127.0.0.1, so the browser treats the service as its site."""
    with api(tmp_path, auth="off", host=host) as app:
        assert app.test_client().get("/v1/audits", headers={"Host": name}).status_code == status
        assert app.test_client().get("/healthz", headers={"Host": name}).status_code == 200


def test_a_secret_is_nowhere_in_the_database(database: Database) -> None:
    key = keys.issue(database, "mine", "ci", ["read"])
    kept = keys.issued(database, "mine")
    assert [record.name for record in kept] == ["ci"]
    assert keys.issued(database, "other") == []
    with database.reading() as connection:
        rows = str(connection.exec_driver_sql("SELECT * FROM keys").all())
    assert key.rpartition("_")[2] not in rows
    assert not keys.revoke(database, "0" * 26)


def test_a_log_is_the_tenants_own_and_says_who_asked(app: Flask, database: Database, theirs: str) -> None:
    admin = {name: keys.issue(database, name, "admin", ["admin"]) for name in ("theirs", "mine")}
    with app.test_client().get("/v1/audit-log", headers=bearer(admin["theirs"])) as answer:
        assert answer.mimetype == "application/jsonl"
        log = hash_chain.account(answer.data.splitlines(keepends=True))
    principal = keys.issued(database, "theirs")[0].id
    assert (log.tenant, log.principals) == ("theirs", {f"key:{principal}"})
    with app.test_client().get("/v1/audit-log", headers=bearer(admin["mine"])) as answer:
        log = hash_chain.account(answer.data.splitlines(keepends=True))
    assert (log.tenant, log.steps) == ("mine", {"issue_key": 1})


def routes() -> list[tuple[str, str]]:
    """All routes of the committed openapi.json that require a key."""
    paths = json.loads((Path(openapi.__file__).parent / "openapi.json").read_text())["paths"]
    return [
        (method.upper(), path)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if "security" in operation
    ]


def test_no_route_is_left_out() -> None:
    """The open routes are listed here; all others, including future ones, are called below without a key."""
    paths = json.loads((Path(openapi.__file__).parent / "openapi.json").read_text())["paths"]
    everything = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    looked_at = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/v1/openapi.json")}
    assert everything - set(routes()) == looked_at | {(operation.method, operation.path) for operation in LINKED}
    assert set(routes()) == {(operation.method, operation.path) for operation in GUARDED}


@pytest.mark.parametrize(("method", "path"), routes(), ids=lambda part: part)
def test_a_stranger_is_answered_401_403_or_404_over_every_route(
    app: Flask, database: Database, theirs: str, method: str, path: str
) -> None:
    """Answers about another tenant's resources are the same as about resources that do not exist."""
    expired = keys.issue(database, "theirs", "old", ["admin"], lasts=timedelta(seconds=-1))
    powerless = keys.issue(database, "mine", "powerless", [])
    client = app.test_client()
    there = identifiers(theirs)
    for headers, status in (({}, 401), (bearer(expired), 401), (bearer(powerless), 403)):
        with client.open(path.format(**there), method=method, headers=headers) as answer:
            assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    names = re.findall(r"{(\w+)}", path)
    if not names or "upload" in path:
        return  # creates resources, which have no owner yet; the tests above check such answers
    nowhere = there | {
        "job_id": "0" * 26,
        "webhook_id": "0" * 26,
        "study_id": "0" * 26,
        "digest": digest(b"nobody has this"),
    }
    key = keys.issue(database, "mine", "ci", ["admin"])
    answers = []
    for ids in (there, nowhere):
        with client.open(path.format(**ids), method=method, headers=bearer(key), data=b"") as answer:
            text = answer.text
            for value in ids.values():
                text = text.replace(value, "X")
            answers.append((answer.status_code, text, sorted(answer.headers.keys())))
    assert answers[0] == answers[1]
    assert answers[0][0] == (422 if method == "PUT" else 404)  # the bytes do not have the digest in the path


def test_readiness_names_workers_only_to_those_with_a_key(app: Flask, database: Database) -> None:
    job_records.record_worker(database, "celery@build-7.internal", ["network"])
    key = keys.issue(database, "acme", "ci", ["read"])
    client = app.test_client()
    for headers in ({}, bearer(f"{key}x"), {"Authorization": "Basic x"}):
        stranger = client.get("/readyz", headers=headers)
        assert (stranger.status_code, stranger.json["workers"]) == (200, {})
        assert stranger.json["queues"]["default"] == 1
    assert client.get("/readyz", headers=bearer(key)).json["workers"] == {"celery@build-7.internal": ["network"]}
