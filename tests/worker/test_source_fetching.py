"""Sources that the service fetches: over a real HTTP server, TLS, a real S3 server, and a real worker."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest

from caveat_storage import blob_registry, job_records, job_state
from caveat_storage.blobs import Blobs
from caveat_storage.job_records import Database, migrate
from caveat_storage.job_state import Lease
from caveat_worker.jobs import source_https
from caveat_worker.jobs.settings import Settings
from caveat_worker.jobs.source_fetching import FailedError, StoppedError, with_fetched_sources
from tests.serving import Answer, Asked, serving
from tests.storage.conftest import s3 as s3_server  # noqa: F401  # a fixture
from tests.worker.live import MODEL, TABLE, audit, digest, live, valkey
from tests.worker.test_webhook_http import answering, certified, speaking

LOOPBACK = "127.0.0.0/8"


@dataclass
class Web:
    """A real HTTP server: what it sends at each path, and what it was asked."""

    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/onnx"


@pytest.fixture
def web() -> Iterator[Web]:
    there = Web()

    def answer(asked: Asked) -> Answer:
        there.asked.append(asked)
        return there.answers.get(asked.path, Answer(404))

    with serving(answer) as there.port:
        there.answers["/onnx/a.onnx"] = Answer(body=MODEL)
        yield there


@dataclass
class Installation:
    """A store, a database, and a job of one tenant with a source that is a URL."""

    database: Database
    blobs: Blobs
    settings: dict[str, Any]

    def fetch(self, source: str, should_stop: Callable[[], bool] = lambda: False, **settings: Any) -> Lease:
        """Fetches for a new job whose model is `source`."""
        wanted = audit() | {"model": source}
        submitted = job_state.submit(self.database, "acme", "audit", wanted)
        lease = job_state.claim(self.database, submitted.record.id, worker="one", lasts=timedelta(minutes=1))
        assert lease is not None
        chosen = Settings(**{**self.settings, **settings})
        return with_fetched_sources(lease, self.database, self.blobs, chosen, should_stop)

    def refused(self, source: str, word: str, **settings: Any) -> FailedError:
        """The fault that fetching ends in, which says `word`; nothing was stored."""
        with pytest.raises(FailedError) as caught:
            self.fetch(source, **settings)
        fault: FailedError = caught.value
        assert word in fault.problem.detail
        assert job_records.owned(self.database, "acme", [digest(MODEL)]) == {}
        assert list(self.blobs.digests()) == []
        return fault


@pytest.fixture
def there(tmp_path: Path, web: Web) -> Iterator[Installation]:
    url = f"sqlite:///{tmp_path / 'caveat.db'}"
    migrate(url)
    database = Database(url)
    settings = {"source_allow": web.url, "source_networks": LOOPBACK}
    yield Installation(database, blob_registry.opened(str(tmp_path / "blobs"), database), settings)
    database.close()


def addressed(url: str, data: bytes = MODEL) -> str:
    return f"{url}#sha256={hashlib.sha256(data).hexdigest()}"


def test_bytes_are_fetched_once_and_belong_to_the_tenant(there: Installation, web: Web) -> None:
    lease = there.fetch(addressed(f"{web.url}/a.onnx"))
    assert lease.payload["model"] == digest(MODEL)
    assert there.blobs.read(digest(MODEL)) == MODEL
    assert job_records.owned(there.database, "acme", [digest(MODEL)]) == {digest(MODEL): len(MODEL)}
    assert job_records.owned(there.database, "other", [digest(MODEL)]) == {}
    again = there.fetch(addressed(f"{web.url}/a.onnx"))
    assert again.payload["model"] == digest(MODEL)
    assert len(web.asked) == 1
    blob_registry.mark(there.database, digest(MODEL), damaged=True)
    there.fetch(addressed(f"{web.url}/a.onnx"))
    assert len(web.asked) == 2
    assert not blob_registry.is_damaged(there.database, digest(MODEL))


def test_nothing_is_fetched_unless_an_operator_allows_it(there: Installation, web: Web) -> None:
    source = addressed(f"{web.url}/a.onnx")
    there.refused(source, "CAVEAT_SOURCE_ALLOW is empty", source_allow="")
    there.refused(source, "does not fetch from there", source_allow="https://models.example/")
    there.refused(source, "is not allowed (CAVEAT_SOURCE_NETWORKS)", source_networks="")
    there.refused(source, "is not allowed (CAVEAT_SOURCE_NETWORKS)", source_networks="10.0.0.0/8")
    assert web.asked == []


def test_a_name_is_looked_up_once_and_what_was_checked_is_reached(
    there: Installation, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that returns a harmless address first and an internal one next (DNS rebinding)."""
    looked_up = answering(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
    rebinds = f"http://rebinds.example:{web.port}/onnx"
    fault = there.refused(addressed(f"{rebinds}/a.onnx"), "no connection", source_allow=rebinds)
    assert fault.again
    assert (looked_up, web.asked) == (["rebinds.example"], [])


def test_other_bytes_are_refused(there: Installation, web: Web) -> None:
    web.answers["/onnx/a.onnx"] = Answer(body=b"changed")
    fault = there.refused(addressed(f"{web.url}/a.onnx"), "its bytes have another digest")
    assert digest(b"changed") not in fault.problem.model_dump_json(), "whoever knows it could fetch them"
    assert not fault.again
    assert fault.problem.type == "urn:caveat:problem:source-not-fetched"
    assert [one.pointer for one in fault.problem.errors] == ["/model"]


@pytest.mark.parametrize(("status", "again"), [(404, False), (403, False), (206, False), (503, True), (429, True)])
def test_a_status_says_whether_another_attempt_may_help(
    there: Installation, web: Web, status: int, again: bool
) -> None:
    web.answers["/onnx/a.onnx"] = Answer(status, body=MODEL)
    assert there.refused(addressed(f"{web.url}/a.onnx"), f"its server answers {status}").again == again


def test_a_redirect_is_followed_to_where_a_url_may_lead(there: Installation, web: Web) -> None:
    web.answers["/onnx/old"] = Answer(302, {"Location": "moved?signature=%2Fx"})
    web.answers["/onnx/moved?signature=%2Fx"] = Answer(body=MODEL)
    assert there.fetch(addressed(f"{web.url}/old")).payload["model"] == digest(MODEL)


@pytest.mark.parametrize(
    ("location", "word"),
    [
        ("/secret", "redirects to 127.0.0.1: this service does not fetch from there"),
        ("/onnx/../secret", "redirects to"),
        ("http://169.254.169.254/latest", "redirects to 169.254.169.254"),
        ("https://evil.example/", "redirects to evil.example"),
        ("file:///etc/passwd", "redirects to another place"),
        ("http://[::1/onnx", "redirects to what is not a URL"),
        ("s3://bucket/onnx/a.onnx", "a redirect may not lead to s3://"),
        ("", "redirects more than 5 times"),
        ("/onnx/redirects", "redirects more than 5 times"),
    ],
)
def test_a_redirect_to_anywhere_else_is_refused(there: Installation, web: Web, location: str, word: str) -> None:
    web.answers["/onnx/redirects"] = Answer(307, {"Location": location})
    web.answers["/secret"] = Answer(body=MODEL)
    allowed = f"{web.url}, s3://bucket/onnx/"
    there.refused(addressed(f"{web.url}/redirects"), word, source_allow=allowed)
    assert "/secret" not in [asked.path for asked in web.asked]


def test_a_redirect_into_a_network_that_is_not_allowed_is_refused(there: Installation, web: Web) -> None:
    web.answers["/onnx/inside"] = Answer(302, {"Location": f"http://127.0.0.2:{web.port}/onnx/a.onnx"})
    both = f"{web.url}, http://127.0.0.2:{web.port}/"
    word = "127.0.0.2 has no address, or one that is not allowed"
    refused = there.refused(addressed(f"{web.url}/inside"), word, source_allow=both, source_networks="127.0.0.1/32")
    assert not refused.again
    assert [asked.path for asked in web.asked] == ["/onnx/inside"]


def test_a_blob_of_more_than_the_largest_is_not_read(there: Installation, web: Web) -> None:
    web.answers["/onnx/a.onnx"] = Answer(body=b"x" * 5_000_000)
    source = addressed(f"{web.url}/a.onnx", b"x" * 5_000_000)
    assert not there.refused(source, "more than 1,000,000 bytes", largest_blob=1_000_000).again


def test_a_server_that_announces_no_length_is_cut_off_at_the_largest_blob(there: Installation) -> None:
    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            connection.sendall(b"x" * 100_000)

    with speaking(speak) as port:
        url = f"http://127.0.0.1:{port}/"
        refused = there.refused(
            addressed(f"{url}a"), "more than 1,000,000 bytes", largest_blob=1_000_000, source_allow=url
        )
    assert not refused.again


def test_the_quota_of_the_tenant_holds(there: Installation, web: Web) -> None:
    job_records.own(there.database, "acme", _stored(there, b"other"), 5)
    with pytest.raises(FailedError, match="You store 5 bytes, and your limit is 9") as caught:
        there.fetch(addressed(f"{web.url}/a.onnx"), tenant_bytes=5 + len(MODEL) - 1)
    assert (caught.value.problem.status, caught.value.again) == (413, False)
    assert digest(MODEL) not in list(there.blobs.digests())
    assert there.fetch(addressed(f"{web.url}/a.onnx"), tenant_bytes=5 + len(MODEL)).payload["model"] == digest(MODEL)


def test_the_quota_holds_for_bytes_without_a_length(there: Installation) -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + MODEL

    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    with speaking(speak) as port:
        url = f"http://127.0.0.1:{port}/"
        refused = there.refused(addressed(f"{url}a"), "your limit is 3", tenant_bytes=3, source_allow=url)
    assert (refused.problem.status, refused.again) == (413, False)


def test_a_silent_server_a_slow_one_and_one_that_breaks_off_are_given_up(
    there: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nmo"
    ended = threading.Event()

    def speak(connection: socket.socket) -> None:
        if b"/broken" in connection.recv(65536):
            connection.sendall(begun)
            return
        connection.sendall(begun)
        ended.wait(20)

    monkeypatch.setattr(source_https, "SILENCE_SECONDS", 0.4)
    with speaking(speak) as port:
        url = f"http://127.0.0.1:{port}/"
        assert there.refused(addressed(f"{url}broken"), "no connection: RemoteProtocolError", source_allow=url).again
        assert there.refused(addressed(f"{url}silent"), "silent, or too slow", source_allow=url).again
        ended.set()
    monkeypatch.setattr(source_https, "SILENCE_SECONDS", 10.0)

    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not ended.wait(0.05):
            connection.sendall(b"x")

    ended.clear()
    with speaking(drip) as port:
        url = f"http://127.0.0.1:{port}/"
        assert there.refused(addressed(f"{url}a"), "too slow", source_allow=url, source_seconds=0.5).again
        ended.set()


def test_a_job_that_has_to_stop_stops_fetching(there: Installation, web: Web) -> None:
    with pytest.raises(StoppedError):
        there.fetch(addressed(f"{web.url}/a.onnx"), lambda: True)
    assert list(there.blobs.digests()) == []


@pytest.mark.parametrize("silent", ["its name server", "a server that was asked", "a server that sent half"])
def test_a_job_stops_whatever_is_silent(
    there: Installation, web: Web, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked for only between chunks: a lookup, six redirects or a library held the job for minutes."""
    ended, asked = threading.Event(), threading.Event()

    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        if silent == "a server that sent half":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nmo")
        asked.set()
        ended.wait(30)

    def look_up(*_: object, **__: object) -> list[object]:
        asked.set()
        ended.wait(30)
        return []

    if silent == "its name server":
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with speaking(speak) as port:
        url = f"http://127.0.0.1:{port}/" if silent != "its name server" else "http://models.example/"
        stopped = threading.Event()

        def should_stop() -> bool:
            if asked.is_set():
                stopped.set()
            return stopped.is_set()

        began = time.monotonic()
        with pytest.raises(StoppedError):
            there.fetch(addressed(f"{url}a"), should_stop, source_allow=url)
        took = time.monotonic() - began
        ended.set()
    assert took < 5
    assert list(there.blobs.digests()) == []


def test_credentials_are_sent_to_their_host_only_and_only_with_tls(
    there: Installation, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(
        "machine models.example login ci password word\nmachine 127.0.0.1 login a password b\n"
        "default login anybody password all\n"
    )
    certificate = certified(tmp_path, "models.example")
    trust = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(source_https, "trust", lambda: trust)
    answering(monkeypatch, ["127.0.0.1"])
    with _secured(certificate, f"HTTP/1.1 302 Found\r\nLocation: {web.url}/a.onnx\r\n\r\n") as (port, heard):
        url = f"https://models.example:{port}/"
        lease = there.fetch(addressed(f"{url}a"), source_allow=f"{url}, {web.url}", source_netrc=netrc)
        assert lease.payload["model"] == digest(MODEL)
        assert b"Authorization: Basic Y2k6d29yZA==" in heard[0]
        assert "authorization" not in web.asked[0].headers
        other = f"https://other.example:{port}/"
        there.blobs.remove(digest(MODEL))
        with pytest.raises(FailedError, match="no connection"):
            there.fetch(addressed(f"{other}b", b"b"), source_allow=other, source_netrc=netrc)
        assert len(heard) == 1
    netrc.write_text("machine")
    with pytest.raises(FailedError, match="cannot read its credentials"):
        there.fetch(addressed(f"{url}c", b"c"), source_allow=url, source_netrc=netrc)


def test_an_object_of_a_bucket_is_fetched_with_the_credentials_of_the_service(
    there: Installation,
    s3_server: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {"ENDPOINT_URL": s3_server, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}
    for name, value in keys.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    data = bytes(range(256)) * 40_000
    fsspec.filesystem("s3").makedirs("fetched", exist_ok=True)
    fsspec.filesystem("s3").pipe("fetched/onnx/a.onnx", data)
    allow = {"source_allow": "s3://fetched/onnx/"}
    there.refused(addressed("s3://fetched/onnx/none.onnx"), "there is no such file", **allow)
    there.refused(addressed("s3://fetched/other.onnx"), "does not fetch from there", **allow)
    there.refused(addressed("s3://fetched/onnx/a.onnx"), "its bytes have another digest", **allow)
    there.refused(addressed("s3://fetched/onnx/a.onnx", data), "more than 1,000 bytes", largest_blob=1000, **allow)
    assert there.fetch(addressed("s3://fetched/onnx/a.onnx", data), **allow).payload["model"] == digest(data)
    assert there.blobs.read(digest(data)) == data


def test_a_service_without_a_library_says_so(there: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "caveat_worker.jobs.source_fetching.find_spec", lambda name: None if name == "gcsfs" else real(name)
    )
    refused = there.refused(addressed("gs://bucket/a.onnx"), "lacks the package gcsfs", source_allow="gs://bucket/")
    assert not refused.again


def test_an_audit_of_urls_has_the_report_of_the_same_audit_of_digests(tmp_path: Path, web: Web) -> None:
    """Through the API, a broker and a worker; the bytes were never uploaded."""
    model, table = b"another model", TABLE + b"1,1\n"
    web.answers |= {"/onnx/b.onnx": Answer(body=model), "/onnx/people.csv": Answer(body=table)}
    settings = {"source_allow": f"{web.url}, http://127.0.0.1:1/", "source_networks": LOOPBACK}
    exported = {f"CAVEAT_{name.upper()}": value for name, value in settings.items()}
    with valkey(tmp_path / "valkey") as port, live(tmp_path, port, **settings) as here, here.worker(**exported):

        def submitted(model: str, table: str) -> dict[str, Any]:
            wanted = audit() | {"model": model}
            wanted["examples"]["people"]["table"] = table
            asked = here.client.post("/v1/audits", json=wanted)
            assert asked.status_code == 202, asked.text
            return here.wait(asked.json["id"])

        by_url = addressed(f"{web.url}/b.onnx", model), addressed(f"{web.url}/people.csv", table)
        record = submitted(*by_url)
        assert (record["state"], record["audit"]["model"]) == ("succeeded", by_url[0])
        assert record["report_digest"] == submitted(digest(model), digest(table))["report_digest"]
        assert len(web.asked) == 2
        away = submitted(addressed("http://127.0.0.1:1/a.onnx", b"away"), by_url[1])
        assert away["problem"]["type"] == "urn:caveat:problem:source-not-fetched"
        assert away["attempts"] == int(here.environment["CAVEAT_ATTEMPTS"])
        examples = {"arrays": addressed(f"{web.url}/a.onnx")}
        looked = here.client.post("/v1/examples", json={"examples": examples}, headers={"Prefer": "wait=20"})
        assert looked.json["summary"]["count"] == len(MODEL)


@contextmanager
def _secured(certificate: Path, answer: str) -> Iterator[tuple[int, list[bytes]]]:
    """A server with TLS that gives one answer; yields its port and the requests that it hears."""
    heard: list[bytes] = []

    def speak(connection: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with context.wrap_socket(connection, server_side=True) as secured:
            heard.append(secured.recv(65536))
            secured.sendall(answer.encode())

    with speaking(speak) as port:
        yield port, heard


def _stored(there: Installation, data: bytes) -> str:
    there.blobs.put(io.BytesIO(data), digest(data))
    return digest(data)
