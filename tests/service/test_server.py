"""The service as it is deployed: gunicorn, sockets, streams, and connections that break off."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.worker.live import MODEL, ROOT, TABLE, audit, digest, unused_port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `python -m service`."""
    folder = tmp_path_factory.mktemp("server")
    port, metrics = unused_port(), unused_port()
    told = {
        "CAVEAT_DATABASE_URL": f"sqlite:///{folder / 'caveat.db'}",
        "CAVEAT_BLOBS_URL": str(folder / "blobs"),
        "CAVEAT_BROKER_URL": "redis://127.0.0.1:1/0",
        "CAVEAT_PORT": str(port),
        "CAVEAT_METRICS_PORT": str(metrics),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service"], cwd=ROOT, env=os.environ | told, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _until_it_answers(url, process)
        assert "caveat_queue_depth" in httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_an_upload_is_streamed_in_chunks(server: str) -> None:
    data = os.urandom(5 << 20)
    chunks = (data[at : at + 100_000] for at in range(0, len(data), 100_000))
    answer = httpx.put(f"{server}/v1/blobs/{digest(data)}", content=chunks)
    assert (answer.status_code, answer.json()["size"]) == (201, len(data))
    assert httpx.get(f"{server}/v1/blobs/{digest(data)}").content == data


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_an_upload_that_breaks_off_is_not_there(server: str, framing: str) -> None:
    data = b"x" * 1000
    place = f"/v1/blobs/{digest(data + framing.encode())}"
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        body = b"64\r\n" + b"x" * 100 if "chunked" in framing else b"x" * 100
        connection.sendall(f"PUT {place} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode() + body)
    assert httpx.get(f"{server}{place}").status_code == 404
    assert httpx.get(f"{server}/healthz").status_code == 200


def test_what_arrived_of_an_upload_that_breaks_off_is_kept(server: str) -> None:
    data = os.urandom(1000)
    place = f"/v1/uploads/{digest(data)}"
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"PATCH {place} HTTP/1.1\r\nHost: x\r\nUpload-Offset: 0\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + data[:100])
    deadline = time.monotonic() + 10
    while (kept := httpx.get(f"{server}{place}").json()) != {"digest": digest(data), "offset": 100, "complete": False}:
        assert time.monotonic() < deadline, kept
        time.sleep(0.05)
    headers = {"Upload-Offset": "100"}
    assert httpx.patch(f"{server}{place}", content=iter([data[100:]]), headers=headers).status_code == 411
    assert httpx.patch(f"{server}{place}", content=data[100:], headers=headers).status_code == 201
    assert httpx.get(f"{server}/v1/blobs/{digest(data)}").content == data


def test_events_come_while_they_happen(server: str) -> None:
    for data in (MODEL, TABLE):
        httpx.put(f"{server}/v1/blobs/{digest(data)}", content=data)
    place = server + httpx.post(f"{server}/v1/audits", json=audit()).headers["Location"]
    with httpx.stream("GET", f"{place}/events", timeout=10) as stream:
        lines = stream.iter_lines()
        assert "event: submit" in [next(lines) for _ in range(4)]
        assert httpx.post(f"{place}:cancel").status_code == 202
        rest = list(lines)
    assert "event: cancel" in rest


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
    assert httpx.get(f"{server}/healthz").json() == {"status": "alive"}


def _until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, "the service ended; see its log"
        try:
            httpx.get(f"{url}/healthz")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the service does not answer")
