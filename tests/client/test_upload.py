"""An upload over connections that are really cut: what the service has is not sent again."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from caveat import AsyncClient, Client
from caveat.pack import digest

pytestmark = pytest.mark.xdist_group("up")

SIZE = 24 << 20
CUTS = [9 << 20, 6 << 20]
"""After how many bytes each of the first connections that brings so many is cut."""
IN_FLIGHT = 4 << 20
"""Bytes that buffers hold when a connection is cut, at most."""


class CuttingProxy:
    """Passes connections on, cuts the first ones in the middle, and counts the bytes that it passed to the service."""

    def __init__(self, service: str, cuts: list[int]) -> None:
        host, _, port = service.removeprefix("http://").partition(":")
        self._service, self._cuts = (host, int(port)), list(cuts)
        self.passed, self.cut = 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._service) as service:
            threading.Thread(target=self._back, args=(service, client), daemon=True).start()
            brought = 0
            with suppress(OSError):
                while data := client.recv(1 << 16):
                    service.sendall(data)
                    brought, self.passed = brought + len(data), self.passed + len(data)
                    if self._cuts and brought >= self._cuts[0]:
                        self._cuts.pop(0)
                        self.cut += 1
                        break
            for end in (client, service):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _back(service: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := service.recv(1 << 16):
                client.sendall(data)


@contextmanager
def cut(service: str) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(service, CUTS)
    yield proxy
    proxy.close()


async def put_async(url: str, file: Path) -> str:
    async with AsyncClient(url) as client:
        return await client.put(file)


@pytest.mark.parametrize("form", ["sync", "async"])
def test_an_upload_goes_on_where_its_connection_was_cut(tmp_path: Path, service: str, form: str) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(os.urandom(SIZE))
    shares: list[float] = []
    with cut(service) as proxy:
        if form == "sync":
            with Client(proxy.url) as client:
                name = client.put(file, on_progress=lambda _, share: shares.append(share))
        else:
            name = asyncio.run(put_async(proxy.url, file))
    assert proxy.cut == len(CUTS)
    assert SIZE < proxy.passed < SIZE + len(CUTS) * IN_FLIGHT, f"{proxy.passed - SIZE} bytes were sent twice"
    assert httpx2.get(f"{service}/v1/blobs/{name}").content == file.read_bytes()
    assert form == "async" or shares[-1] == 1.0


def test_what_arrived_is_no_blob(tmp_path: Path, service: str) -> None:
    data = os.urandom(1000)
    file = tmp_path / "blob"
    file.write_bytes(data)
    name = digest(file)
    with httpx2.Client(base_url=service) as http:
        part = {"Upload-Offset": "0", "Upload-Complete": "?0"}
        kept = http.patch(f"/v1/uploads/{name}", content=data[:400], headers=part)
        assert (kept.status_code, kept.headers["Upload-Offset"]) == (202, "400")
        assert http.head(f"/v1/blobs/{name}").status_code == 404
        assert http.head(f"/v1/uploads/{name}").headers["Upload-Offset"] == "400"
        assert http.post("/v1/models", json={"blob": name}).status_code == 422
    with Client(service) as client:
        client.put(file)
    assert httpx2.get(f"{service}/v1/blobs/{name}").content == data
