"""The API as a client sees it: uploads, jobs, pages, reports, and clear problems."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from caveat_service.state import AppContext
from caveat_spec.openapi import LARGEST_JSON
from caveat_storage import job_records, job_state
from tests.worker.live import MODEL, TABLE, audit, digest


@pytest.fixture
def uploaded(client: FlaskClient) -> FlaskClient:
    """A client that has uploaded the bytes of `audit`."""
    for data in (MODEL, TABLE):
        client.put(f"/v1/blobs/{digest(data)}", data=data)
    return client


@pytest.fixture
def app_context(app: Flask) -> AppContext:
    there: AppContext = app.extensions["caveat"]
    return there


def succeed(app_context: AppContext, job_id: str, report: bytes) -> None:
    """The work of a worker, in short."""
    lease = job_state.claim(app_context.database, job_id, worker="w", lasts=timedelta(hours=1))
    assert lease is not None
    app_context.blobs.put(io.BytesIO(report), digest(report))
    assert job_state.succeed(app_context.database, lease, {"outcome": "fail"}, digest(report))


class TestBlobs:
    def test_are_kept_once_and_given_back(self, client: FlaskClient) -> None:
        place = f"/v1/blobs/{digest(MODEL)}"
        assert client.get(place).status_code == 404
        first, again = client.put(place, data=MODEL), client.put(place, data=MODEL)
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json == again.json == {"digest": digest(MODEL), "size": 5}
        assert client.get(place).data == MODEL
        head = client.head(place)
        assert (head.status_code, head.headers["Content-Length"]) == (200, "5")
        assert client.get(place, headers={"If-None-Match": head.headers["ETag"]}).status_code == 304

    def test_of_another_digest_are_refused_and_not_kept(self, client: FlaskClient) -> None:
        place = f"/v1/blobs/{digest(MODEL)}"
        refused = client.put(place, data=b"other")
        assert refused.status_code == 422
        assert digest(b"other") in refused.json["detail"]
        assert client.get(place).status_code == 404

    def test_that_are_too_large_are_refused(self, app: Flask, client: FlaskClient) -> None:
        app_context = app.extensions["caveat"]
        small = app_context.settings.model_copy(update={"largest_blob": 4})
        app.extensions["caveat"] = replace(app_context, settings=small)
        refused = client.put(f"/v1/blobs/{digest(MODEL)}", data=MODEL)
        assert refused.status_code == 413
        assert "CAVEAT_LARGEST_BLOB" in refused.json["remedy"]


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        ("sent", "status", "code"),
        [
            ({"data": "{", "content_type": "application/json"}, 400, "malformed-json"),
            ({"data": "", "content_type": "application/json"}, 400, "malformed-json"),
            ({"data": b"\xff\xfe", "content_type": "application/json"}, 400, "malformed-json"),
            ({"data": "[" * 100_000, "content_type": "application/json"}, 400, "malformed-json"),
            ({"data": "model: x", "content_type": "application/yaml"}, 415, "unsupported-media-type"),
            ({"data": "{}"}, 415, "unsupported-media-type"),
            ({"json": {}}, 422, "invalid"),
            ({"json": []}, 422, "invalid"),
            ({"json": "\\u0000"}, 422, "invalid"),
            ({"data": b" " * (5 << 20), "content_type": "application/json"}, 413, "request-entity-too-large"),
        ],
    )
    def test_is_told_by_status_and_code(
        self, client: FlaskClient, sent: dict[str, Any], status: int, code: str
    ) -> None:
        refused = client.post("/v1/audits", **sent)
        assert (refused.status_code, refused.mimetype) == (status, "application/problem+json")
        assert refused.json["type"] == f"urn:caveat:problem:{code}"
        assert refused.json["remedy"]

    @pytest.mark.parametrize(
        ("changed", "pointer"),
        [
            ({"model": 5}, "/model"),
            ({"modle": "x"}, "/modle"),
            ({"examples": {"people": {"table": digest(TABLE), "features": []}}}, "/examples/people/features"),
            ({"examples": {"a/b~c": {"table": 1}}}, "/examples/a~1b~0c"),
            ({"examples": {"people": {"cable": "x"}}}, "/examples/people"),
            ({"groups": {"everybody": {"examples": "nobody", "sensitive": ["s"], "decision": "d"}}},
             "/groups/everybody/examples"),
            ({"method": {"runs": 1}}, "/method/runs"),
            ({"gate": [{"group": "everybody", "metric": "luck", "at_least": 1}]}, "/gate/0/metric"),
        ],
    )  # fmt: skip
    def test_is_pointed_at(self, uploaded: FlaskClient, changed: dict[str, Any], pointer: str) -> None:
        refused = uploaded.post("/v1/audits", json=audit() | changed)
        assert refused.status_code == 422
        assert pointer in [fault["pointer"] for fault in refused.json["errors"]]

    def test_bytes_that_were_not_uploaded_are_pointed_at_with_the_way_to_upload_them(self, client: FlaskClient) -> None:
        refused = client.post("/v1/audits", json=audit())
        assert [fault["pointer"] for fault in refused.json["errors"]] == ["/model", "/examples/people/table"]
        assert all("PUT /v1/blobs/" in fault["detail"] for fault in refused.json["errors"])

    def test_a_path_is_no_source_here(self, uploaded: FlaskClient) -> None:
        refused = uploaded.post("/v1/models", json={"blob": "/etc/passwd"})
        assert refused.json["errors"][0]["pointer"] == "/blob"

    def test_a_query_that_is_not_known(self, client: FlaskClient) -> None:
        refused = client.get("/v1/audits?limit=0&order=down")
        assert [fault["pointer"] for fault in refused.json["errors"]] == ["/limit", "/order"]

    @pytest.mark.parametrize(
        ("method", "place", "status"),
        [
            ("GET", "/nowhere", 404),
            ("GET", f"/v1/audits/{'0' * 26}", 404),
            ("GET", "/v1/audits/1", 404),
            ("DELETE", "/v1/audits", 405),
            ("GET", f"/v1/audits/{'0' * 26}:cancel", 405),
            ("POST", f"/v1/audits/{'0' * 26}:cancel", 404),
            ("GET", "/docs/../../etc/passwd", 404),
        ],
    )
    def test_a_place_that_is_not_there(self, client: FlaskClient, method: str, place: str, status: int) -> None:
        refused = client.open(place, method=method)
        assert (refused.status_code, refused.json["status"]) == (status, status)

    def test_a_fault_of_ours_is_a_problem_without_its_trace(
        self, app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("a secret")

        app.testing = False
        monkeypatch.setattr("caveat_storage.job_records.page", fail)
        refused = client.get("/v1/audits")
        assert (refused.status_code, refused.mimetype) == (500, "application/problem+json")
        assert "secret" not in refused.text


class TestJobs:
    def test_are_accepted_although_the_broker_is_away(self, uploaded: FlaskClient) -> None:
        accepted = uploaded.post("/v1/audits", json=audit())
        assert accepted.status_code == 202
        assert accepted.headers["Location"] == f"/v1/audits/{accepted.json['id']}"
        assert accepted.headers["Retry-After"] == "1"
        shown = uploaded.get(accepted.headers["Location"])
        assert shown.json == accepted.json
        assert shown.json["state"] == "queued"
        again = uploaded.get(accepted.headers["Location"], headers={"If-None-Match": shown.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")

    def test_with_a_key_are_submitted_once(self, uploaded: FlaskClient) -> None:
        headers = {"Idempotency-Key": "one"}
        first = uploaded.post("/v1/audits", json=audit(), headers=headers)
        again = uploaded.post("/v1/audits", json=audit(), headers=headers)
        assert first.json["id"] == again.json["id"]
        other = uploaded.post("/v1/audits", json=audit(1), headers=headers)
        assert (other.status_code, other.json["type"]) == (422, "urn:caveat:problem:idempotency-key-reused")
        elsewhere = uploaded.post("/v1/models", json={"blob": digest(MODEL)}, headers=headers)
        assert elsewhere.status_code == 422
        assert len(uploaded.get("/v1/audits").json["audits"]) == 1

    def test_are_waited_for_if_that_is_preferred(self, uploaded: FlaskClient) -> None:
        accepted = uploaded.post("/v1/audits", json=audit(), headers={"Prefer": "respond-async, wait=9999"})
        assert (accepted.status_code, accepted.headers["Preference-Applied"]) == (202, "wait=1")

    def test_of_one_kind_are_not_of_another(self, uploaded: FlaskClient) -> None:
        made = uploaded.post("/v1/models", json={"blob": digest(MODEL)}).json["id"]
        assert uploaded.get(f"/v1/audits/{made}").status_code == 404
        assert uploaded.get(f"/v1/models/{made}").status_code == 200

    def test_are_listed_in_pages(self, uploaded: FlaskClient) -> None:
        made = [uploaded.post("/v1/audits", json=audit()).json["id"] for _ in range(5)]
        seen, token = [], ""
        while token is not None:
            page = uploaded.get("/v1/audits?limit=2" + (f"&page_token={token}" if token else "")).json
            seen += [one["id"] for one in page["audits"]]
            token = page["next_page_token"]
        assert seen == sorted(made, reverse=True)
        uploaded.post(f"/v1/audits/{made[0]}:cancel")
        listed = uploaded.get("/v1/audits?state=cancelled").json["audits"]
        assert [one["id"] for one in listed] == [made[0]]

    def test_of_each_kind_have_a_list_of_their_own(self, uploaded: FlaskClient) -> None:
        bodies = {"models": {"blob": digest(MODEL)}, "examples": {"examples": next(iter(audit()["examples"].values()))}}
        for kind, body in bodies.items():
            made = [uploaded.post(f"/v1/{kind}", json=body).json for _ in range(3)]
            page = uploaded.get(f"/v1/{kind}?limit=2").json
            assert page == {kind: made[:0:-1], "next_page_token": made[1]["id"]}
            rest = uploaded.get(f"/v1/{kind}?limit=2&page_token={page['next_page_token']}").json
            assert rest == {kind: made[:1], "next_page_token": None}
        assert uploaded.get("/v1/audits").json["audits"] == []

    def test_are_fewer_on_a_page_where_they_are_long(
        self, uploaded: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = [uploaded.post("/v1/audits", json=audit()).json["id"] for _ in range(5)]
        one = len(json.dumps(audit()))  # as it is stored, without defaults
        for room, many in ((1, 1), (2 * one + one // 2, 2), (9 * one, 5)):
            monkeypatch.setattr(job_records, "LARGEST_PAGE", room)
            sizes, seen, token = [], [], ""
            while token is not None:
                page = uploaded.get("/v1/audits" + (f"?page_token={token}" if token else "")).json
                seen += [record["id"] for record in page["audits"]]
                sizes.append(len(page["audits"]))
                token = page["next_page_token"]
            assert seen == sorted(made, reverse=True)
            assert sizes[0] == many
        monkeypatch.undo()
        assert job_records.LARGEST_PAGE >= LARGEST_JSON

    def test_are_cancelled_twice_without_harm_but_not_once_they_ended(
        self, uploaded: FlaskClient, app_context: AppContext
    ) -> None:
        queued = uploaded.post("/v1/audits", json=audit()).json["id"]
        for _ in range(2):
            cancelled = uploaded.post(f"/v1/audits/{queued}:cancel")
            assert (cancelled.status_code, cancelled.json["state"]) == (202, "cancelled")
        done = uploaded.post("/v1/audits", json=audit()).json["id"]
        succeed(app_context, done, b"{}")
        assert uploaded.post(f"/v1/audits/{done}:cancel").status_code == 409

    def test_of_another_tenant_are_not_there(self, app: Flask, uploaded: FlaskClient) -> None:
        mine = uploaded.post("/v1/audits", json=audit()).json["id"]
        app_context: AppContext = app.extensions["caveat"]
        theirs = job_state.submit(app_context.database, "theirs", "audit", audit()).record.id
        assert [one["id"] for one in uploaded.get("/v1/audits").json["audits"]] == [mine]
        for place in (f"/v1/audits/{theirs}", f"/v1/audits/{theirs}/report", f"/v1/audits/{theirs}/events"):
            assert uploaded.get(place).status_code == 404
        assert uploaded.post(f"/v1/audits/{theirs}:cancel").status_code == 404


class TestReports:
    def test_are_not_there_before_the_audit_succeeded(self, uploaded: FlaskClient) -> None:
        made = uploaded.post("/v1/audits", json=audit()).json["id"]
        refused = uploaded.get(f"/v1/audits/{made}/report")
        assert (refused.status_code, refused.json["detail"]) == (409, "The audit is queued, so it has no report.")

    def test_are_the_stored_bytes_and_never_change(self, uploaded: FlaskClient, app_context: AppContext) -> None:
        made = uploaded.post("/v1/audits", json=audit()).json["id"]
        app = uploaded.application
        app.testing = False  # these bytes are not a report, and the contract's check would say so
        succeed(app_context, made, b'{"a":1}')
        shown = uploaded.get(f"/v1/audits/{made}/report")
        assert (shown.data, shown.mimetype) == (b'{"a":1}', "application/json")
        assert "immutable" in shown.headers["Cache-Control"]
        known = {"If-None-Match": shown.headers["ETag"]}
        assert uploaded.get(f"/v1/audits/{made}/report", headers=known).status_code == 304
        refused = uploaded.get(f"/v1/audits/{made}/report", headers={"Accept": "image/png"})
        assert refused.status_code == 406
        assert "text/html" in refused.json["remedy"]


class TestOperations:
    def test_health_and_readiness(self, client: FlaskClient) -> None:
        assert client.get("/healthz").json == {"status": "alive"}
        ready = client.get("/readyz")
        assert ready.status_code == 200
        nobody = {"workers": {}, "queues": {"default": 0, "gpu": 0, "large": 0}}
        assert (
            ready.json
            == {"status": "ready", "database": "up", "blobs": "up", "broker": "down", "problems": []} | nobody
        )

    @pytest.mark.parametrize("path", ["/healthz", "/docs", "/v1/audits", "/v1/none"])
    def test_no_browser_guesses_what_an_answer_is(self, client: FlaskClient, path: str) -> None:
        assert client.get(path).headers["X-Content-Type-Options"] == "nosniff"

    def test_readiness_fails_without_blobs(
        self, client: FlaskClient, app_context: AppContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(type(app_context.blobs), "fault", lambda _: "blobs-full")
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json["blobs"], answer.json["problems"]) == (503, "down", ["blobs-full"])

    def test_the_docs_load_nothing_from_elsewhere(self, client: FlaskClient) -> None:
        page = client.get("/docs")
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        assert "http" not in page.text
        for name in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js"):
            with client.get(f"/docs/{name}") as served:
                assert served.status_code == 200
        assert client.get("/docs/index.css").status_code == 404

    def test_the_document_is_served_with_an_etag(self, client: FlaskClient) -> None:
        served = client.get("/v1/openapi.json")
        assert served.json["openapi"] == "3.1.0"
        known = {"If-None-Match": served.headers["ETag"]}
        assert client.get("/v1/openapi.json", headers=known).status_code == 304

    def test_metrics_are_counted_in_the_database(self, uploaded: FlaskClient, app_context: AppContext) -> None:
        from prometheus_client import generate_latest

        from caveat_service.metrics import registry

        uploaded.post("/v1/audits", json=audit())
        read = generate_latest(registry(app_context.database)).decode()
        assert 'caveat_jobs{kind="audit",state="queued"} 1.0' in read
        assert 'caveat_queue_depth{queue="default"} 1.0' in read
