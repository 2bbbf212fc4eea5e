"""The running service: gunicorn, sockets, streams, and broken connections."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import IO
from urllib.parse import quote

import httpx2
import pytest

from caveat_storage import job_state
from caveat_storage.job_records import Database
from tests.worker.live import MODEL, TABLE, audit, digest, end, serving, unused_port

THREADS = 8
MOST_OF_ONE = THREADS * 3 // 8
"""Long requests of one client: half of the places, which are three quarters of the threads."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Runs `python -m caveat_service`, which must exit cleanly; yields its URL."""
    metrics = unused_port()
    with serving(
        tmp_path_factory.mktemp("server"), CAVEAT_METRICS_PORT=str(metrics), CAVEAT_REQUEST_THREADS=str(THREADS)
    ) as (url, process):
        assert "caveat_queue_depth" in httpx2.get(f"http://127.0.0.1:{metrics}/metrics").text
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0


def test_an_upload_is_streamed_in_chunks(server: str) -> None:
    data = os.urandom(5 << 20)
    chunks = (data[at : at + 100_000] for at in range(0, len(data), 100_000))
    answer = httpx2.put(f"{server}/v1/blobs/{digest(data)}", content=chunks)
    assert (answer.status_code, answer.json()["size"]) == (201, len(data))
    assert httpx2.get(f"{server}/v1/blobs/{digest(data)}").content == data


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_an_upload_that_breaks_off_is_not_there(server: str, framing: str) -> None:
    data = b"x" * 1000
    place = f"/v1/blobs/{digest(data + framing.encode())}"
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        body = b"64\r\n" + b"x" * 100 if "chunked" in framing else b"x" * 100
        connection.sendall(f"PUT {place} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode() + body)
    assert httpx2.get(f"{server}{place}").status_code == 404
    assert httpx2.get(f"{server}/healthz").status_code == 200


def test_what_arrived_of_an_upload_that_breaks_off_is_kept(server: str) -> None:
    data = os.urandom(1000)
    place = f"/v1/uploads/{digest(data)}"
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"PATCH {place} HTTP/1.1\r\nHost: localhost\r\nUpload-Offset: 0\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + data[:100])
    deadline = time.monotonic() + 10
    while (kept := httpx2.get(f"{server}{place}").json()) != {"digest": digest(data), "offset": 100, "complete": False}:
        assert time.monotonic() < deadline, kept
        time.sleep(0.05)
    headers = {"Upload-Offset": "100"}
    assert httpx2.patch(f"{server}{place}", content=iter([data[100:]]), headers=headers).status_code == 411
    assert httpx2.patch(f"{server}{place}", content=data[100:], headers=headers).status_code == 201
    assert httpx2.get(f"{server}/v1/blobs/{digest(data)}").content == data


def test_events_come_while_they_happen(server: str) -> None:
    for data in (MODEL, TABLE):
        httpx2.put(f"{server}/v1/blobs/{digest(data)}", content=data)
    place = server + httpx2.post(f"{server}/v1/audits", json=audit()).headers["Location"]
    with httpx2.stream("GET", f"{place}/events", timeout=10) as stream:
        lines = stream.iter_lines()
        assert "event: submit" in [next(lines) for _ in range(4)]
        assert httpx2.post(f"{place}:cancel").status_code == 202
        rest = list(lines)
    assert "event: cancel" in rest


def test_a_client_has_half_of_the_places_for_streams(server: str) -> None:
    for data in (MODEL, TABLE):
        httpx2.put(f"{server}/v1/blobs/{digest(data)}", content=data)
    place = server + httpx2.post(f"{server}/v1/audits", json=audit(seed=7)).headers["Location"]
    with ExitStack() as streams:
        opened = [
            streams.enter_context(httpx2.stream("GET", f"{place}/events", timeout=10)) for _ in range(MOST_OF_ONE)
        ]
        assert {stream.status_code for stream in opened} == {200}
        refused = httpx2.get(f"{place}/events")
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "2")
        assert refused.json()["type"] == "urn:caveat:problem:busy"
        assert httpx2.put(f"{server}/v1/blobs/{digest(MODEL)}", content=MODEL).status_code == 200, "it arrives at once"
        asked = time.monotonic()
        waited = httpx2.post(f"{server}/v1/audits", json=audit(seed=8), headers={"Prefer": "wait=20"})
        assert waited.status_code == 202
        assert "Preference-Applied" not in waited.headers
        assert time.monotonic() - asked < 15, "without a free slot a request must not wait either"
        for _ in range(10):
            assert httpx2.get(f"{server}/healthz", timeout=5).status_code == 200
        httpx2.post(f"{place}:cancel")
        for stream in opened:
            assert "event: cancel" in list(stream.iter_lines())
    with httpx2.stream("GET", f"{place}/events", timeout=10) as again:
        assert again.status_code == 200


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\n",
        b"\r\n\r\n",
        b"PUT /v1/blobs/sha256:0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n0123456789",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2 + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n",
    ],
    ids=["nothing", "half a head", "empty lines", "half a body", "no hanging up", "one and a half"],
)
def test_a_probe_is_answered_whatever_strangers_do_not_say(server: str, said: bytes) -> None:
    """Without protection, each of them would block a thread or the main loop for seconds."""
    host, port = server.removeprefix("http://").split(":")
    with ExitStack() as strangers:
        for _ in range(5 * THREADS):
            stranger = strangers.enter_context(socket.create_connection((host, int(port)), timeout=5))
            stranger.sendall(said)
        for _ in range(3):
            assert httpx2.get(f"{server}/healthz", timeout=4).status_code == 200


def test_a_head_may_come_in_parts_and_two_at_once(server: str) -> None:
    host, port = server.removeprefix("http://").split(":")
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection, connection.makefile("rb") as answers:
        for byte in head:
            connection.sendall(bytes([byte]))
            time.sleep(0.005)
        assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
        _rest(answers)
        connection.sendall(head + head + head[:9])
        for _ in range(2):
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            _rest(answers)
        connection.sendall(head[9:])
        assert answers.readline() == b"HTTP/1.1 200 OK\r\n"


def test_a_head_that_is_too_long_is_told_so(server: str) -> None:
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection, connection.makefile("rb") as answers:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 100_000)
        assert answers.readline().startswith(b"HTTP/1.1 431 ")
        assert b"application/problem+json" in answers.read()


def test_the_longest_name_of_a_layer_fits_into_a_path(server: str) -> None:
    path = f"/v1/audits/{'0' * 26}/cavs/stripes/{quote('𝕏' * 1024)}"
    assert len(path) > 12_000
    refused = httpx2.get(f"{server}{path}")
    assert (refused.status_code, refused.json()["type"]) == (404, "urn:caveat:problem:not-found")


@pytest.mark.parametrize(
    "line", [b"GET\r\n", b"GET /healthz HTTP/7.0\r\n", b"g(t /healthz HTTP/1.1\r\n", b"\x16\x03\x01\r\n"]
)
def test_what_is_not_http_is_answered_with_a_problem(server: str, line: bytes) -> None:
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection, connection.makefile("rb") as answers:
        connection.sendall(line + b"Host: localhost\r\n\r\n")
        assert answers.readline() == b"HTTP/1.1 400 Bad Request\r\n"
        head, _, body = answers.read().partition(b"\r\n\r\n")
    assert b"Content-Type: application/problem+json" in head
    assert json.loads(body)["type"] == "urn:caveat:problem:bad-request"


def _rest(answers: IO[bytes]) -> None:
    """Reads the rest of an answer."""
    headers = dict(line.lower().split(b":", 1) for line in iter(answers.readline, b"\r\n"))
    answers.read(int(headers[b"content-length"]))


@pytest.mark.slow
def test_whoever_takes_too_long_is_hung_up_on(server: str) -> None:
    host, port = server.removeprefix("http://").split(":")
    for said in (
        b"GET /healthz HTTP/1.1\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(said)
            assert _is_hung_up_on(connection), "the connection is still open"


def _is_hung_up_on(connection: socket.socket) -> bool:
    """Whether the server closes a connection whose peer keeps sending for ten seconds."""
    try:
        while connection.recv(1000):
            pass
        for _ in range(10):
            time.sleep(1)
            connection.sendall(b"X: y\r\n")
    except ConnectionError:
        return True
    return False


def test_what_is_no_http_does_no_harm(server: str) -> None:
    host, port = server.removeprefix("http://").split(":")
    for rubbish in (
        b"\x00" * 100 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"PUT / HTTP/9.9\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(rubbish)
            assert b" 50" not in connection.recv(200)
    assert httpx2.get(f"{server}/healthz").json() == {"status": "alive"}


def test_a_stream_of_events_goes_on_where_it_was_when_the_api_was_killed(tmp_path: Path) -> None:
    port = str(unused_port())
    with serving(tmp_path, CAVEAT_PORT=port) as (url, process):
        for data in (MODEL, TABLE):
            httpx2.put(f"{url}/v1/blobs/{digest(data)}", content=data)
        job_id = httpx2.post(f"{url}/v1/audits", json=audit()).json()["id"]
        database = Database(f"sqlite:///{tmp_path / 'caveat.db'}")
        lease = job_state.claim(database, job_id, worker="w", lasts=timedelta(minutes=1))
        assert lease is not None
        events = f"{url}/v1/audits/{job_id}/events"
        with httpx2.stream("GET", events, timeout=10) as stream:
            lines = stream.iter_lines()
            seen = events_until(lines, until="claim")
            end(process)
            with pytest.raises(httpx2.TransportError):
                list(lines)
    job_state.advance(database, lease, "collecting", 0.5)  # without a connected client
    with serving(tmp_path, CAVEAT_PORT=port):
        with httpx2.stream("GET", events, headers={"Last-Event-ID": seen[-1][0]}, timeout=10) as stream:
            lines = stream.iter_lines()
            seen += events_until(lines, until="advance")
            job_state.stop(database, lease)
            seen += events_until(lines, until="stop")
        assert httpx2.get(events, headers={"Last-Event-ID": seen[-1][0]}).status_code == 204
        whole = events_until(iter(httpx2.get(events).text.splitlines()), until="stop")
    database.close()
    assert seen == whole
    assert [what for _, what in seen] == ["submit", "claim", "advance", "stop"]


def events_until(lines: Iterator[str], until: str) -> list[tuple[str, str]]:
    """Ids and names of the events in a stream, up to one with a given name."""
    found: list[tuple[str, str]] = []
    number = ""
    for line in lines:
        field, _, value = line.partition(": ")
        number = value if field == "id" else number
        if field == "event":
            found.append((number, value))
            if value == until:
                return found
    raise AssertionError(f"the stream ended before '{until}': {found}")
