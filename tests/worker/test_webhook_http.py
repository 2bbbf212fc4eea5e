"""Messages reach only allowed addresses: tested with real sockets and lying name servers."""

from __future__ import annotations

import datetime
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from caveat_storage.ssrf import fault, may_reach, networks
from caveat_worker.jobs import webhook_http as posting
from caveat_worker.jobs.webhook_http import UnsentError, post
from tests.worker.receiver import receiver

LOOPBACK = networks("127.0.0.0/8, ::1/128")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1",
        "fe80::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:5601:5601", "2001:db8::1", "198.18.0.1", "192.0.2.1",
        "fec0::1", "feff::1", "::93.184.216.34", "::10.0.0.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_not_reached(address: str) -> None:
    assert not may_reach(address, [], encrypted=True)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"])
def test_public_addresses_are_reached_with_tls(address: str) -> None:
    assert may_reach(address, [], encrypted=True)
    assert not may_reach(address, LOOPBACK, encrypted=False)


def test_an_operator_may_allow_more() -> None:
    allowed = networks("10.1.0.0/16,fd00::/8")
    assert may_reach("10.1.2.3", allowed, encrypted=False)
    assert may_reach("::ffff:10.1.2.3", allowed, encrypted=False)
    assert may_reach("fd12::1", allowed, encrypted=False)
    assert not may_reach("10.2.0.1", allowed, encrypted=True)
    with pytest.raises(ValueError, match="host bits"):
        networks("10.1.2.3/8")


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("http://example.org/", "only with https"),
        ("https://example.org:0/", "port"),
        ("https://example.org:70000/", "port"),
        ("https://169.254.169.254/latest", "not public"),
        ("https://[::1]/", "not public"),
    ],
)
def test_what_can_be_seen_to_be_wrong_is_said_at_once(url: str, word: str) -> None:
    assert word in (fault(url, []) or "").lower()
    assert fault("https://example.org/hook?a=b", []) is None
    assert fault("http://127.0.0.1:8080/", LOOPBACK) is None


def test_a_message_arrives_as_it_was_sent() -> None:
    with receiver() as there:
        assert post(there.url + "?a=b", b'{"a":1}', {"Content-Type": "application/json", "X": "y"}, LOOPBACK) == 200
    (letter,) = there.letters
    assert (letter.path, letter.body, letter.headers["x"]) == ("/hook?a=b", b'{"a":1}', "y")


def test_nothing_is_sent_where_nothing_may_be_sent() -> None:
    with receiver() as there:
        for host in ("127.0.0.1", "localhost", "0x7f.1", "2130706433"):
            with pytest.raises(UnsentError, match="is not allowed"):
                post(there.url.replace("127.0.0.1", host), b"", {}, [])
    assert there.letters == []


def test_a_redirect_is_not_followed() -> None:
    with receiver() as inside, receiver() as there:
        there.answers, there.headers = [307], {"Location": inside.url}
        assert post(there.url, b"{}", {}, LOOPBACK) == 307
    assert inside.letters == []


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as there, receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert post(there.url, b"{}", {}, LOOPBACK) == 200
    assert (len(there.letters), proxy.letters) == (1, [])


def test_a_name_is_looked_up_once_and_what_was_checked_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that returns a harmless address first and an internal one next (DNS rebinding)."""
    looked_up = answering(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
    with receiver() as inside, pytest.raises(UnsentError, match="no connection"):
        post(f"http://rebinds.example:{inside.port}/", b"{}", {}, networks("127.0.0.2/32"))
    assert inside.letters == []
    assert looked_up == ["rebinds.example"]


def test_a_name_with_one_address_inside_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, ["93.184.216.34", "127.0.0.1"])
    with receiver() as inside, pytest.raises(UnsentError, match="one that is not allowed"):
        post(f"https://both.example:{inside.port}/", b"{}", {}, [])
    assert inside.letters == []


def test_a_name_that_is_inside_sounds_like_one_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refusal() -> str:
        with caplog.at_level(logging.INFO), pytest.raises(UnsentError) as fault:
            post("https://vault.inside.example/", b"{}", {}, [])
        return str(fault.value)

    def nowhere(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    answering(monkeypatch, ["10.1.2.3"])
    inside = refusal()
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    assert refusal() == inside
    assert "10.1.2.3" not in inside
    assert "10.1.2.3" in caplog.text


def test_of_several_addresses_the_first_that_answers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, ["127.0.0.3", "127.0.0.1"])
    with receiver() as there:
        assert post(f"http://two.example:{there.port}/", b"{}", {}, LOOPBACK) == 200


def test_a_receiver_that_drips_its_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "SECONDS", 0.6)
    began = time.monotonic()
    with dripping() as port, pytest.raises(UnsentError, match="no answer within"):
        post(f"http://127.0.0.1:{port}/", b"{}", {}, LOOPBACK)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("answer", [b"", b"\x00\xff\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_what_is_no_answer_is_none(answer: bytes) -> None:
    with speaking(lambda connection: connection.sendall(answer)) as port, pytest.raises(UnsentError):
        post(f"http://127.0.0.1:{port}/", b"{}", {}, LOOPBACK)


def test_a_name_that_is_none_has_no_address() -> None:
    for host in ("nowhere.invalid", "a" * 70 + ".example"):
        with pytest.raises(UnsentError, match="has no address"):
            post(f"https://{host}/", b"{}", {}, [])


def test_a_certificate_is_asked_for_the_name_and_not_for_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = certified(tmp_path, "hooks.example")
    trust = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(posting, "trust", lambda: trust)
    answering(monkeypatch, ["127.0.0.1"])
    answer = b"HTTP/1.1 204 No Content\r\n\r\n"

    def speak(connection: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with context.wrap_socket(connection, server_side=True) as secured:
            while not secured.recv(65536).endswith(b"{}"):
                pass
            secured.sendall(answer)

    with speaking(speak) as port:
        assert post(f"https://hooks.example:{port}/", b"{}", {}, LOOPBACK) == 204
        with pytest.raises(UnsentError):
            post(f"https://other.example:{port}/", b"{}", {}, LOOPBACK)


def answering(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """A name server that gives each answer once and then repeats the last one; returns the queried names."""
    left, asked = list(answers), []

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        now = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in now]

    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **also: (
            real(host, *more, **also) if host[:1].isdigit() else getaddrinfo(host, *more, **also)
        ),
    )  # fmt: skip
    return asked


@contextmanager
def speaking(speak: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that runs an action on each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        speak(connection)
                    except (OSError, ssl.SSLError):
                        continue

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def dripping() -> Any:
    """A server that sends an endless answer, one byte at a time."""

    def speak(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            connection.sendall(b"x")
            time.sleep(0.1)

    return speaking(speak)


def certified(folder: Path, name: str) -> Path:
    """A key and a self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    moment = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(moment - datetime.timedelta(days=1))
        .not_valid_after(moment + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certified.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
