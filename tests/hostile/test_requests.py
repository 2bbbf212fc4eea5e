"""Hostile requests against the running service: a documented status, a problem in words, and no harm."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress

import httpx2
import pytest

from tests.hostile.requests import CASES, Sent
from tests.worker.live import serving


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("hostile")) as (url, _):
        yield url


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_answered_as_promised(case: Sent, url: str) -> None:
    status, head, body = exchange(url, case.data)
    assert status in case.statuses, body[:300]
    if status >= 400 and "json" in head.lower():
        problem = json.loads(body)
        assert problem["status"] == status
        assert problem["detail"]
        assert problem["remedy"]
        assert len(body) < 100_000
    assert "Traceback" not in body
    assert "/etc/passwd:" not in body
    assert "root:" not in body


def test_it_stands_at_the_end(url: str) -> None:
    assert httpx2.get(f"{url}/healthz").json() == {"status": "alive"}
    assert httpx2.get(f"{url}/v1/audits").json()["audits"] == []


def exchange(url: str, data: bytes) -> tuple[int, str, str]:
    """Sends raw bytes; returns the status, the head and the body of the first answer."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        received = b""
        with suppress(BrokenPipeError, ConnectionResetError):  # rejected before it was read completely
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while part := connection.recv(1 << 16):
                received += part
    head, _, body = received.decode("latin1").partition("\r\n\r\n")
    found = re.match(r"HTTP/1\.[01] (\d{3})", head)
    assert found, f"no answer: {received[:200]!r}"
    return int(found[1]), head, body
