"""Quotas and rate limits: requests over a limit are rejected, and other tenants are not affected."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydantic import ValidationError

from caveat_service.settings import Settings
from caveat_service.state import EXTENSION
from caveat_storage import keys
from tests.api import api
from tests.worker.live import MODEL, TABLE, audit, digest, valkey

Served = Callable[..., Flask]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Served]:
    """The API with these settings; all instances share one storage."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(api(tmp_path, auth="keys", **settings))


def client(app: Flask, tenant: str) -> FlaskClient:
    """A client of a tenant."""
    key = keys.issue(app.extensions[EXTENSION].database, tenant, "ci", ["submit", "read"])
    made = app.test_client()
    made.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
    return made


def put(client: FlaskClient, data: bytes) -> Any:
    return client.put(f"/v1/blobs/{digest(data)}", data=data)


class TestBytes:
    def test_no_more_is_kept_than_there_is_room_for(self, serve: Served) -> None:
        acme, other = (client(serve(tenant_bytes=10), name) for name in ("acme", "other"))
        assert put(acme, b"a" * 6).status_code == 201
        refused = put(acme, b"b" * 5)
        assert (refused.status_code, refused.json["type"]) == (413, "urn:caveat:problem:quota-bytes")
        assert "You store 6 bytes, and your limit is 10" in refused.json["detail"]
        assert put(acme, b"a" * 6).status_code == 200  # stored bytes need no more space
        assert put(acme, b"c" * 4).status_code == 201
        assert put(other, b"b" * 5).status_code == 201

    @pytest.mark.parametrize("way", ["whole", "resumable"])
    def test_uploads_that_were_admitted_at_once_stay_within_it_and_leave_nothing(
        self, serve: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
    ) -> None:
        """Each was small enough when it began, since none of the others had arrived."""
        app = serve(tenant_bytes=10)
        monkeypatch.setattr("caveat_service.limits.require_room", lambda size, digest: None)
        headers = {"Upload-Offset": "0", "Upload-Complete": "?1"}

        def send(number: int) -> Any:
            data = b"%04d" % number
            if way == "whole":
                return put(client(app, "acme"), data)
            place = f"/v1/uploads/{digest(data)}"
            return client(app, "acme").patch(place, data=data, headers=headers, content_type=PART)

        with ThreadPoolExecutor(8) as pool:
            statuses = [answer.status_code for answer in pool.map(send, range(8))]
        assert sorted(statuses) == [201] * 2 + [413] * 6
        assert [path.stat().st_size for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == [4, 4]

    def test_parts_that_were_admitted_at_once_stay_within_it(
        self, serve: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app = serve(tenant_bytes=10)
        monkeypatch.setattr("caveat_service.limits.require_room", lambda size, digest: None)
        headers = {"Upload-Offset": "0", "Upload-Complete": "?0"}
        for number, status in enumerate([202, 202, 413, 413]):
            place = f"/v1/uploads/{digest(b'%d' % number)}"
            sent = client(app, "acme").patch(place, data=b"1234", headers=headers, content_type=PART)
            assert sent.status_code == status
        assert sum(path.stat().st_size for path in (tmp_path / "blobs").rglob("*") if path.is_file()) == 8

    def test_what_arrived_of_an_upload_counts(self, serve: Served) -> None:
        acme = client(serve(tenant_bytes=10), "acme")

        def patch(data: bytes, offset: int, complete: str) -> Any:
            headers = {"Upload-Offset": str(offset), "Upload-Complete": complete}
            whole = digest(b"12345678")
            return acme.patch(f"/v1/uploads/{whole}", data=data, headers=headers, content_type=PART)

        assert patch(b"1234", 0, "?0").status_code == 202
        assert put(acme, b"b" * 7).status_code == 413
        assert put(acme, b"b" * 3).status_code == 201
        assert patch(b"5678", 4, "?1").status_code == 413
        assert patch(b"567", 4, "?0").status_code == 202

    def test_a_body_without_a_length_is_cut_off_at_the_room_there_is(self, serve: Served) -> None:
        import io

        acme = client(serve(tenant_bytes=10), "acme")
        data = b"x" * 11
        refused = acme.put(
            f"/v1/blobs/{digest(data)}",
            input_stream=io.BytesIO(data),
            environ_overrides={"wsgi.input_terminated": True},
        )
        assert refused.status_code == 413

    def test_uploads_at_the_same_time_do_not_slip_through(self, serve: Served) -> None:
        app = serve(tenant_bytes=10)
        clients = [client(app, "acme") for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda one: put(one[1], bytes([one[0]]) * 4).status_code, enumerate(clients)))
        assert sorted(statuses) == [201] * 2 + [413] * 6


PART = "application/partial-upload"


class TestWaiting:
    def test_no_more_jobs_wait_than_may(self, serve: Served) -> None:
        acme, other = (client(serve(tenant_waiting=2), name) for name in ("acme", "other"))
        for one in (acme, other):
            put(one, MODEL)
            put(one, TABLE)
        first = acme.post("/v1/audits", json=audit(), headers={"Idempotency-Key": "a"})
        assert first.status_code == 202
        assert acme.post("/v1/models", json={"blob": digest(MODEL)}).status_code == 202
        refused = acme.post("/v1/audits", json=audit())
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
        assert refused.json["type"] == "urn:caveat:problem:quota-waiting"
        again = acme.post("/v1/audits", json=audit(), headers={"Idempotency-Key": "a"})
        assert (again.status_code, again.json["id"]) == (202, first.json["id"])
        assert other.post("/v1/audits", json=audit()).status_code == 202
        acme.post(f"/v1/audits/{first.json['id']}:cancel")
        assert acme.post("/v1/audits", json=audit()).status_code == 202

    def test_jobs_asked_for_at_the_same_time_do_not_slip_through(self, serve: Served) -> None:
        app = serve(tenant_waiting=3)
        clients = [client(app, "acme") for _ in range(8)]
        put(clients[0], MODEL)
        with ThreadPoolExecutor(8) as pool:
            asked = pool.map(lambda one: one.post("/v1/models", json={"blob": digest(MODEL)}).status_code, clients)
        assert sorted(asked) == [202] * 3 + [429] * 5


class TestRate:
    def test_too_many_requests_are_told_when_to_come_back(self, serve: Served, broker: str) -> None:
        apps = [serve(rate_limit="5/hour", broker_url=broker) for _ in range(2)]  # two processes, one count
        acme = [client(app, "acme") for app in apps]
        for turn in range(5):
            answer = acme[turn % 2].get("/v1/audits")
            assert (answer.status_code, answer.headers["RateLimit-Limit"]) == (200, "5")
            assert answer.headers["RateLimit-Remaining"] == str(4 - turn)
            assert 0 < int(answer.headers["RateLimit-Reset"]) <= 7200
            assert "Retry-After" not in answer.headers
        refused = acme[0].get("/v1/audits")
        assert (refused.status_code, refused.mimetype) == (429, "application/problem+json")
        assert refused.json["type"] == "urn:caveat:problem:too-many-requests"
        assert "5 per 1 hour" in refused.json["detail"]
        assert refused.headers["Retry-After"] == refused.headers["RateLimit-Reset"]
        assert client(apps[0], "other").get("/v1/audits").status_code == 200
        for free in ("/healthz", "/readyz", "/v1/openapi.json", "/docs"):
            assert "RateLimit-Limit" not in acme[0].get(free).headers
        assert apps[0].test_client().get("/v1/audits").status_code == 401

    def test_a_wait_that_means_something_else_stays(self, serve: Served, broker: str) -> None:
        acme = client(serve(rate_limit="5/hour", broker_url=broker), "acme")
        put(acme, MODEL)
        assert acme.post("/v1/models", json={"blob": digest(MODEL)}).headers["Retry-After"] == "1"

    def test_a_broker_that_is_away_lets_nobody_down(self, serve: Served) -> None:
        acme = client(serve(rate_limit="3/hour"), "acme")
        assert [acme.get("/v1/audits").status_code for _ in range(4)] == [200, 200, 200, 429]

    @pytest.mark.parametrize("limit", ["many", "5", "5/fortnight", "5/hour;", "-1/hour"])
    def test_a_limit_that_is_none_is_refused(self, limit: str) -> None:
        with pytest.raises(ValidationError):
            Settings(rate_limit=limit)
        Settings(rate_limit="20/second;5000/hour")
        Settings(rate_limit="20/5minute")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    with valkey(tmp_path) as port:
        yield f"redis://127.0.0.1:{port}/0"


WRONG = f"caveat_{'0' * 26}_{'0' * 64}"


def guess(app: Flask, key: str | None = WRONG, address: str = "203.0.113.7") -> Any:
    """A request with a key from an address."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return app.test_client().get("/v1/audits", headers=headers, environ_base={"REMOTE_ADDR": address})


class TestWrongKeys:
    def test_are_told_so_often_and_then_to_wait(self, serve: Served, broker: str) -> None:
        apps = [serve(auth_failure_limit="3/hour", broker_url=broker) for _ in range(2)]  # two processes, one count
        assert [guess(apps[turn % 2]).status_code for turn in range(3)] == [401] * 3
        for key in (WRONG, "x", "a.b.c"):
            refused = guess(apps[0], key)
            assert (refused.status_code, refused.mimetype) == (429, "application/problem+json")
            assert refused.json["type"] == "urn:caveat:problem:too-many-wrong-keys"
            headers = refused.headers
            assert (headers["RateLimit-Limit"], headers["RateLimit-Remaining"]) == ("3", "0")
            assert 3500 < int(headers["Retry-After"]) == int(headers["RateLimit-Reset"]) <= 3600

    def test_cost_nobody_with_a_valid_key_anything(self, serve: Served, broker: str) -> None:
        app = serve(auth_failure_limit="3/hour", broker_url=broker)
        key = keys.issue(app.extensions[EXTENSION].database, "acme", "ci", ["read"])
        assert [guess(app, key).status_code for _ in range(9)] == [200] * 9  # successes are not counted
        assert [guess(app).status_code for _ in range(5)] == [401] * 3 + [429] * 2
        assert [guess(app, key).status_code for _ in range(9)] == [200] * 9
        assert guess(app, None).status_code == 401  # a request without a key is not counted
        assert guess(app).status_code == 429

    def test_are_counted_for_each_client(self, serve: Served) -> None:
        app = serve(auth_failure_limit="1/hour")

        def statuses(*addresses: str) -> list[int]:
            return [guess(app, address=address).status_code for address in addresses]

        assert statuses("203.0.113.7", "203.0.113.8", "203.0.113.7") == [401, 401, 429]
        assert statuses("::ffff:203.0.113.7") == [429]
        assert statuses("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1") == [401, 429, 401]
        assert statuses("", "") == [401, 429]

    def test_each_of_several_limits_holds(self, serve: Served, broker: str) -> None:
        app = serve(auth_failure_limit="2/second;3/hour", broker_url=broker)
        assert [guess(app).status_code for _ in range(2)] == [401] * 2
        time.sleep(1.1)
        assert guess(app).status_code == 401
        refused = guess(app)
        assert (refused.status_code, refused.headers["RateLimit-Limit"]) == (429, "3")

    def test_may_be_told_for_ever(self, serve: Served) -> None:
        assert {guess(serve(auth_failure_limit="")).status_code for _ in range(40)} == {401}

    def test_are_limited_as_it_is(self, serve: Served) -> None:
        app = serve()
        assert [guess(app).status_code for _ in range(31)] == [401] * 30 + [429]


def test_as_it_is_there_is_no_limit(serve: Served) -> None:
    acme = client(serve(), "acme")
    assert "RateLimit-Limit" not in acme.get("/v1/audits").headers
