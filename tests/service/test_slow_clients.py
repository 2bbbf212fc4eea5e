"""Slow clients cost only themselves: each attack comes from one tenant, and another one notices nothing of it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from caveat_service.client_watch import ClientWatch
from caveat_service.long_request_slots import Place
from caveat_service.slow_answers import Answer
from caveat_service.state import SharedPlaces
from caveat_storage import keys
from caveat_storage.job_records import Database
from tests.worker.live import MODEL, TABLE, audit, digest, serving

THREADS = 8
PATIENCE = 120.0
"""Seconds after which an answer counts as never: each attack goes on until its victim is answered."""
ESTABLISHED = "01"
"""The state of an open connection, as the kernel lists it."""
STRANGER = "127.0.0.2"
"""An address that is not the victim's."""


@dataclass(frozen=True)
class Service:
    """A running service that requires keys, and a key of each of two tenants."""

    url: str
    mallory: str
    bob: str

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def request(self, method: str, path: str, key: str | None = None, **also: object) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key or self.bob}"}
        return httpx2.request(method, self.url + path, headers=headers, timeout=PATIENCE, **also)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with socket.socket() as silent:  # the broker and the issuer: it accepts connections and answers nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen(1000)
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = {
            "CAVEAT_AUTH": "keys", "CAVEAT_REQUEST_THREADS": str(THREADS), "CAVEAT_BROKER_URL": f"redis://{place}/0",
            "CAVEAT_OIDC_ISSUER": f"http://{place}", "CAVEAT_OIDC_AUDIENCE": "caveat",
        }  # fmt: skip
        with serving(folder, **settings) as (url, _), _database(folder) as database:
            secrets = [keys.issue(database, tenant, "ci", ["submit", "read"]) for tenant in ("mallory", "bob")]
            yield Service(url, *secrets)


@contextmanager
def _database(folder: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{folder / 'caveat.db'}")
    yield database
    database.close()


@contextmanager
def dripping(service: Service, many: int, head: str) -> Iterator[list[socket.socket]]:
    """Connections that each send a head and then a byte of their body now and then, and come back when they are cut."""
    over = Event()
    said = f"{head}\r\nHost: localhost\r\nAuthorization: Bearer {service.mallory}\r\n\r\n".encode()
    with ExitStack() as connections:

        def connected() -> socket.socket:
            connection = connections.enter_context(socket.create_connection(service.address, timeout=PATIENCE))
            connection.sendall(said + b"x")
            return connection

        opened = [connected() for _ in range(many)]

        def drip() -> None:
            while not over.wait(0.2):
                for number, connection in enumerate(opened):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        opened[number] = connected()

        thread = Thread(target=drip)
        thread.start()
        try:
            yield opened
        finally:
            over.set()
            thread.join()


JSON = "POST /v1/audits HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 4000000"
CHUNKED = "POST /v1/audits HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked"
UPLOAD = f"PUT /v1/blobs/{digest(b'never')} HTTP/1.1\r\nContent-Length: 4000000"
PART = f"PATCH /v1/uploads/{digest(b'never')} HTTP/1.1\r\nUpload-Offset: 0\r\nContent-Length: 4000000"
FRESH = PART.replace(digest(b"never"), digest(b"nor this"))
REFUSED = "GET /v1/audits HTTP/1.1\r\nContent-Length: 4000000"


@pytest.mark.slow
@pytest.mark.parametrize(
    "head", [JSON, UPLOAD, CHUNKED, PART, REFUSED], ids=["JSON", "upload", "chunked", "part", "refused"]
)
def test_another_tenant_notices_nothing_of_slow_bodies(service: Service, head: str) -> None:
    """17 connections that dripped JSON, or 12 that dripped uploads, kept everybody else out as long as they liked."""
    with dripping(service, 64, head):
        time.sleep(1)
        for number in range(2):
            for probe in ("/healthz", "/readyz"):
                assert httpx2.get(service.url + probe, timeout=PATIENCE).status_code == 200
            data = os.urandom(100_000)
            assert service.request("PUT", f"/v1/blobs/{digest(data)}", content=data).status_code == 201
            for data in (MODEL, TABLE):
                assert service.request("PUT", f"/v1/blobs/{digest(data)}", content=data).status_code in (200, 201)
            assert service.request("POST", "/v1/audits", json=audit(seed=number)).status_code == 202


def test_who_is_slow_has_a_share_and_is_told(service: Service) -> None:
    with dripping(service, THREADS, JSON) as opened:
        told: set[bytes] = set()
        deadline = time.monotonic() + PATIENCE
        while b"429" not in told and time.monotonic() < deadline:
            told |= {_answer(connection).partition(b" ")[2][:3] for connection in [*opened] if _has_answer(connection)}
    assert b"429" in told


def _has_answer(connection: socket.socket) -> bool:
    connection.settimeout(0.1)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def _answer(connection: socket.socket) -> bytes:
    return connection.recv(1000)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "remedy"), [(JSON, "faster"), (UPLOAD, "faster"), (FRESH, "resumes")])
def test_a_body_has_to_arrive_at_a_minimum_rate(service: Service, head: str, remedy: str) -> None:
    said = f"{head}\r\nHost: localhost\r\nAuthorization: Bearer {service.mallory}\r\n\r\n".encode()
    with socket.create_connection(service.address, timeout=60) as connection:
        connection.sendall(said + b"abc")
        began = time.monotonic()
        answer = connection.recv(4000)
        while remedy.encode() not in answer and (more := connection.recv(4000)):  # head and body may come apart
            answer += more
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert remedy in answer.decode()
    assert 9 < time.monotonic() - began < 25


def test_a_body_that_is_slow_and_steady_arrives(service: Service) -> None:
    def steadily() -> Iterator[bytes]:
        for _ in range(8):
            time.sleep(0.3)
            yield os.urandom(16 << 10)

    pieces = list(steadily())
    data = b"".join(pieces)

    def again() -> Iterator[bytes]:
        for piece in pieces:
            time.sleep(0.3)
            yield piece

    assert service.request("PUT", f"/v1/blobs/{digest(data)}", content=again()).status_code == 201


def test_strangers_with_rubbish_tokens_and_a_silent_issuer_delay_no_key(service: Service) -> None:
    """Twenty of them had every thread wait for the issuer, so that valid keys were not served."""
    over = Event()
    statuses: set[int] = set()

    def knock(number: int) -> None:
        token = jwt.encode({"sub": "nobody"}, ec.generate_private_key(ec.SECP256R1()), "ES256", {"kid": str(number)})
        with httpx2.Client(timeout=60) as client:
            while not over.is_set():
                asked = client.get(f"{service.url}/v1/audits", headers={"Authorization": f"Bearer {token}"})
                statuses.add(asked.status_code)

    strangers = [Thread(target=knock, args=(number,)) for number in range(20)]
    for stranger in strangers:
        stranger.start()
    try:
        time.sleep(1)
        for _ in range(10):
            assert service.request("GET", "/v1/audits").status_code == 200
    finally:
        over.set()
        for stranger in strangers:
            stranger.join()
    assert statuses == {503}


def test_a_silent_broker_delays_no_probe(service: Service) -> None:
    """Each would take its two threads until the broker answers, which it never does."""
    for _ in range(10):
        ready = httpx2.get(f"{service.url}/readyz", timeout=PATIENCE)
        assert (ready.status_code, ready.json()["broker"]) == (200, "down")


@pytest.mark.parametrize("path", ["/docs/swagger-ui-bundle.js", "/v1/openapi.json"])
def test_clients_that_read_no_answers_hold_no_threads(tmp_path: Path, path: str) -> None:
    """Eight of them, without a key, stopped an API of four threads for as long as they liked."""
    with serving(tmp_path, CAVEAT_REQUEST_THREADS="4") as (url, _), ExitStack() as connections:
        address = url.removeprefix("http://").split(":")
        asked = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        for _ in range(8):
            connection = connections.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 10)
            connection.bind((STRANGER, 0))
            connection.connect((address[0], int(address[1])))
            connection.sendall(asked * 20)  # one after the other on each connection: kernels keep the first ones
        for _ in range(5):
            assert httpx2.get(f"{url}/v1/audits", timeout=PATIENCE).status_code == 200


@pytest.mark.slow
def test_an_answer_has_to_be_taken_at_a_minimum_rate(tmp_path: Path) -> None:
    """One that is read byte by byte is broken off; before, it took as long as its client liked."""
    with serving(tmp_path) as (url, _), socket.socket() as connection:
        whole = 20 * len(httpx2.get(f"{url}/docs/swagger-ui-bundle.js", timeout=PATIENCE).content)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 10)
        address = url.removeprefix("http://").split(":")
        connection.connect((address[0], int(address[1])))
        connection.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
        taken = 0
        while _served(connection):
            taken += len(connection.recv(100))
            time.sleep(0.1)
        with suppress(ConnectionResetError):  # what the kernel had taken over from the service still arrives
            while data := connection.recv(1 << 16):
                taken += len(data)
    assert 0 < taken < whole


def _served(connection: socket.socket) -> bool:
    """Whether the other end of a connection of this machine is still open, as its kernel says."""
    ports = [f":{end[1]:04X}" for end in (connection.getpeername(), connection.getsockname())]
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any([row[1][-5:], row[2][-5:]] == ports and row[3] == ESTABLISHED for row in rows)


def test_an_answer_is_broken_off_only_where_its_client_owes_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy server may itself take a second between two pieces; it broke off answers that had been taken."""
    monkeypatch.setattr("caveat_service.slow_answers.SOON", 0.0)
    here, there = socket.socketpair()
    with here, there:
        answer = Answer([b"x"], here, Place(SharedPlaces(0), "somebody"), ClientWatch())
        pieces = iter(answer)
        here.sendall(next(pieces))
        assert there.recv(9) == b"x"
        answer.look()
        here.sendall(b"y")  # which nobody takes
        answer.look()
        assert (there.recv(9), there.recv(9)) == (b"y", b"")
        answer.close()


def test_an_answer_that_is_taken_slowly_and_steadily_arrives(service: Service) -> None:
    whole = httpx2.get(f"{service.url}/docs/swagger-ui-bundle.js", timeout=PATIENCE).content
    with httpx2.stream("GET", f"{service.url}/docs/swagger-ui-bundle.js", timeout=PATIENCE) as answer:
        taken = b""
        for piece in answer.iter_raw(256 << 10):
            taken += piece
            time.sleep(0.3)
    assert taken == whole


@pytest.mark.parametrize("address", ["127.0.0.1", STRANGER])
def test_wrong_tokens_at_a_probe_wait_for_no_issuer(service: Service, address: str) -> None:
    """Two of them held both threads of probes while the issuer was silent."""
    token = jwt.encode({"sub": "nobody"}, ec.generate_private_key(ec.SECP256R1()), "ES256", {"kid": address})
    with httpx2.Client(transport=httpx2.HTTPTransport(local_address=address), timeout=PATIENCE) as client:
        for _ in range(4):
            known = client.get(f"{service.url}/readyz", headers={"Authorization": f"Bearer {token}"})
            assert (known.status_code, known.json()["workers"]) == (200, {})


def test_wrong_keys_at_a_probe_are_counted(tmp_path: Path) -> None:
    with serving(tmp_path, CAVEAT_AUTH="keys", CAVEAT_AUTH_FAILURE_LIMIT="2/hour") as (url, _):
        wrong = {"Authorization": "Bearer caveat_wrong"}
        said = [httpx2.get(f"{url}/readyz", headers=wrong, timeout=PATIENCE).status_code for _ in range(4)]
        assert said == [200, 200, 429, 429]
        assert httpx2.get(f"{url}/readyz", timeout=PATIENCE).status_code == 200
