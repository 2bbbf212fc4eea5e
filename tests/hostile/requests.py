"""Hostile requests as bytes on a connection, and the permitted answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from tests.hostile.case import digest

EMPTY = digest(b"")
BYTES = f"/v1/blobs/{EMPTY}"
JSON = "Content-Type: application/json"
SOMETHING = b'{"model":"sha256:' + b"0" * 64 + b'","examples":{}}'


@dataclass(frozen=True)
class Sent:
    """A request as bytes, and the statuses that may answer it."""

    name: str
    data: bytes
    statuses: frozenset[int]


CASES: list[Sent] = []


def send(
    name: str,
    line: str,
    *headers: str,
    body: bytes = b"",
    host: str = "Host: localhost",
    length: bool = True,
    may: tuple[int, ...] = (400, 404, 405, 414, 415, 422, 431),
) -> None:
    fields = [host] * bool(host) + list(headers) + [f"Content-Length: {len(body)}"] * (length and bool(body))
    head = "\r\n".join([f"{line} HTTP/1.1", *fields, "Connection: close", "", ""])
    CASES.append(Sent(name, head.encode("latin1", "replace") + body, frozenset(may)))


def posted(name: str, body: bytes, *headers: str, path: str = "/v1/audits", may: tuple[int, ...] = (400, 422)) -> None:
    send(name, f"POST {path}", *(headers or (JSON,)), body=body, may=may)


# Paths

for path in (
    "/../../etc/passwd",
    "/docs/../../../etc/passwd",
    "/docs/..%2f..%2fsettings.py",
    "/docs/%2e%2e/service",
    "/docs//etc/passwd",
    "/docs/start.js%00.css",
    "/v1/blobs/../../etc/passwd",
    "/v1/blobs/sha256:..%2f..%2fetc",
    "/v1/blobs/sha256:" + "g" * 64,
    "/v1/blobs/sha256:" + "A" * 64,
    "/v1/blobs/md5:" + "0" * 32,
    "/v1/audits/%00",
    "/v1/audits/" + "0" * 5000,
    "/v1/audits/" + "u" * 26,
    "/v1//audits",
    "/v1/audits/;x=1",
    "/%ff%fe",
    "/v1/audits%0d%0aX:1",
    "/v1/audits/00000000000000000000000000:cancel",
    "/v1/audits/00000000000000000000000000/cavs/a/..%2f..%2f..%2fetc%2fpasswd",
    "/v1/audits/00000000000000000000000000/cavs/%00/%ff",
    "/v1/models/' OR 1=1--",
    "/.env",
    "/server-status",
    "//",
    "///",
    "//?state=queued",
    "//v1/audits",
    "//healthz",
    "/%2Fv1/audits",
    "/%2F",
):
    send(f"path {path[:40]}", f"GET {path}")
for target in (
    "*",
    "http://169.254.169.254/latest",
    "//evil/v1/audits",
    "http://localhost//v1/audits",
    "localhost:80",
    "\\..\\..",
    "/" + "a" * 20_000,
):
    send(f"target {target[:30]}", f"GET {target}")
for query in (
    "limit=-1",
    "limit=1e9",
    "limit=99999999999999999999",
    "limit[]=1",
    "limit=1&limit=2&x=",
    "state=queued'--",
    "page_token=%00",
    "page_token=" + "a" * 5000,
    "x=1",
    "&" * 5000,
    "%",
    "=",
    "state=%ff",
):
    send(f"query {query[:30]}", f"GET /v1/audits?{query}", may=(200, 400, 414, 422))
    send(f"page query {query[:30]}", f"GET /?{query}", may=(200, 400, 414, 422))

# The console

for path in (
    "/audits/../../etc/passwd",
    "/audits/%00",
    "/audits/' OR 1=1--",
    "/audits/" + "0" * 26,
    "/audits/" + "0" * 26 + "/report",
    "/audits/" + "0" * 26 + "/history/..",
    "/compare?now=%00&before=%ff",
    "/compare?now[]=1",
    "/models/../v1/blobs",
):
    send(f"page {path[:40]}", f"GET {path}")
FORM = "Content-Type: application/x-www-form-urlencoded"
for name, body, headers in (
    ("nothing", b"", (FORM,)),
    ("another token", b"token=x&key=caveat_x_y", (FORM,)),
    ("bytes that are no text", b"token=%ff%fe&key=\xff\xfe", (FORM,)),
    ("many fields", b"a=1&" * 1500, (FORM,)),
    ("json", b'{"token": "x"}', (JSON,)),
    (
        "parts without an end",
        b"--b\r\nContent-Disposition: form-data; name=",
        ("Content-Type: multipart/form-data; boundary=b",),
    ),
    (
        "another site",
        b"token=x&key=y",
        (FORM, "Origin: https://evil.example", "Cookie: __Host-caveat=eyJ0b2tlbiI6IngifQ.x.y"),
    ),
):
    for path in ("/sign-in", "/sign-out"):
        send(f"form {name} {path}", f"POST {path}", *headers, body=body, may=(400, 403, 411, 413, 415))
send("form longer than taken", "POST /sign-in", FORM, body=b"token=x&key=" + b"y" * 100_000, may=(403, 413))

# Methods

for method in ("TRACE", "CONNECT", "DELETE", "PATCH", "PROPFIND", "OPTIONS", "get", "G" * 1000, "POST\t"):
    send(f"method {method[:9]}", f"{method} /v1/audits", may=(200, 204, 400, 404, 405, 501))
for override in ("X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"):
    send(f"override {override}", f"GET /v1/blobs/{digest(b'nobody sent this')}", f"{override}: PUT", may=(404,))

# Framing

send("length lies high", f"PUT {BYTES}", "Content-Length: 10", body=b"x", length=False, may=(400, 408, 422))
send("length negative", f"PUT {BYTES}", "Content-Length: -1", body=b"x", length=False, may=(400, 411))
send("length of words", f"PUT {BYTES}", "Content-Length: ten", body=b"x", length=False, may=(400,))
send("length twice", f"PUT {BYTES}", "Content-Length: 1", "Content-Length: 5", body=b"x", length=False, may=(400,))
send("length past all counting", f"PUT {BYTES}", f"Content-Length: {2**70}", body=b"x", length=False, may=(400, 413))
send("length past what is taken", f"PUT {BYTES}", f"Content-Length: {2**40}", body=b"x", length=False, may=(413,))
send("json longer than taken", "POST /v1/audits", JSON, f"Content-Length: {2**30}", body=b"{", length=False, may=(413,))
send("length and chunks", f"PUT {BYTES}", "Transfer-Encoding: chunked", body=b"0\r\n\r\n", may=(200, 201, 400))
send(
    "chunks of rubbish", f"PUT {BYTES}", "Transfer-Encoding: chunked", body=b"zz\r\nx\r\n", length=False, may=(400, 422)
)
send(
    "chunk of all memory",
    f"PUT {BYTES}",
    "Transfer-Encoding: chunked",
    body=b"FFFFFFFFFFFFFFFF\r\nx",
    length=False,
    may=(400, 422),
)
send(
    "coding unknown",
    f"PUT {BYTES}",
    "Transfer-Encoding: gzip, chunked",
    body=b"0\r\n\r\n",
    length=False,
    may=(200, 201, 400, 501),
)
send(
    "coding twice",
    f"PUT {BYTES}",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: identity",
    body=b"0\r\n\r\n",
    length=False,
    may=(200, 201, 400, 501),
)
send("expect something", "POST /v1/audits", "Expect: 200-maybe", JSON, body=b"{}", may=(400, 417, 422))
send("compressed", "POST /v1/audits", JSON, "Content-Encoding: gzip", body=b"\x1f\x8b\x08", may=(400, 415, 422))

# Headers

send("no host", "GET /healthz", host="", may=(200, 400))
send("two hosts", "GET /healthz", "Host: evil", may=(200, 400))
send("host of rubbish", "GET /healthz", host="Host: a b\x00c", may=(200, 400))
send("host of elsewhere", "POST /v1/audits", JSON, body=b"{}", host="Host: evil.example", may=(421,))
send("a huge header", "GET /healthz", "X: " + "a" * 100_000, may=(400, 431))
send("many headers", "GET /healthz", *(f"X{i}: 1" for i in range(5000)), may=(400, 431))
send("a header without a name", "GET /healthz", ": 1", may=(400,))
send("a header with a space", "GET /healthz", "X Y: 1", may=(400,))
send("a header with a zero", "GET /healthz", "X: a\x00b", may=(200, 400))
send("a folded header", "GET /healthz", "X: a\r\n b", may=(200, 400))
send("a header of latin", "GET /healthz", "X: \xff\xfe", may=(200, 400))
for range_ in (
    "bytes=0-",
    "bytes=-1",
    "bytes=" + ",".join("0-1" for _ in range(2000)),
    "bytes=9-1",
    "lines=1",
    "bytes=a-b",
):
    send(f"range {range_[:12]}", f"GET {BYTES}", f"Range: {range_}", may=(200, 404, 416, 206, 400))
for accept in ("*/*;q=nan", "a" * 9000, ",,,,", "text/html;q=", "\xff", "application/json;" + "a=b;" * 2000):
    send(f"accept {accept[:12]}", "GET /v1/audits", f"Accept: {accept}", may=(200, 400, 406, 431))
for prefer in ("wait=99999999999999999999", "wait=-1", "wait=nan", "wait=" + "9" * 250, "wait", "\xff"):
    posted(f"prefer {prefer[:12]}", SOMETHING, JSON, f"Prefer: {prefer}")
for key in ("", " ", "a" * 256, "\xff", "a\tb", '"quoted"', "a,b"):
    posted(f"key {key[:9]!r}", SOMETHING, JSON, f"Idempotency-Key: {key}")
for last in ("-1", "1e3", "9" * 30, "x", "\xff"):
    send(
        f"last event {last[:9]!r}",
        "GET /v1/audits/00000000000000000000000000/events",
        f"Last-Event-ID: {last}",
        may=(404, 422),
    )
for token in ("Bearer", "Bearer ", "bearer a b c", "Basic !!!", "Bearer " + "a" * 7000, "\xff", "Digest x=1"):
    send(f"authorization {token[:12]!r}", "GET /v1/audits", f"Authorization: {token}", may=(200, 400, 401, 431))
for etag in ("*", '"', "W/", "a" * 7000, "\xff"):
    send(f"if none match {etag[:6]!r}", "GET /v1/openapi.json", f"If-None-Match: {etag}", may=(200, 304, 400, 431))

# Bodies

BODIES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b" ",
    "a word": lambda: b"null",
    "a list": lambda: b"[]",
    "a number": lambda: b"1",
    "a deep list": lambda: b"[" * 100_000,
    "a deep list that ends": lambda: b"[" * 2000 + b"]" * 2000,
    "deep objects": lambda: b'{"a":' * 50_000,
    "deep within": lambda: b'{"examples":' * 500 + b"1" + b"}" * 500,
    "not utf-8": lambda: b'{"model":"\xff"}',
    "utf-16": lambda: json.dumps({"model": "x"}).encode("utf-16"),
    "a byte order mark": lambda: b"\xef\xbb\xbf{}",
    "a zero": lambda: b'{"model":"\0"}',
    "an escaped zero": lambda: b'{"model":"\\u0000"}',
    "half a character": lambda: b'{"model":"\\ud800"}',
    "not a number": lambda: b'{"model":NaN}',
    "endless": lambda: b'{"method":{"alpha":Infinity}}',
    "a huge number": lambda: b'{"method":{"seed":' + b"9" * 100_000 + b"}}",
    "a huge exponent": lambda: b'{"method":{"seed":1e999999999}}',
    "a key twice": lambda: b'{"model":"a","model":"b"}',
    "many keys": lambda: json.dumps({f"k{i}": 1 for i in range(50_000)}).encode(),
    "many faults": lambda: json.dumps({"examples": {f"e{i}": {} for i in range(20_000)}}).encode(),
    "a long name": lambda: json.dumps({"examples": {"a" * 10**6: {}}}).encode(),
    "prototypes": lambda: b'{"__proto__":{"x":1},"constructor":1,"__class__":"x"}',
    "a comment": lambda: b"{/* */}",
    "a comma": lambda: b'{"model":"a",}',
    "two documents": lambda: b"{}{}",
    "a url": lambda: b'{"model":"http://169.254.169.254/","examples":{"a":{"arrays":"file:///etc/passwd"}}}',
    "a path": lambda: b'{"model":"../../etc/passwd","examples":{"a":{"arrays":"/etc/passwd"}}}',
    "yaml": lambda: b"model: a\nexamples: {}\n",
    "xml": lambda: b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
    "a tag": lambda: b'{"model":"!!python/object/apply:os.system [true]"}',
}
for name, make in BODIES.items():
    posted(f"body {name}", make(), may=(400, 422))
    posted(f"model {name}", make(), path="/v1/models", may=(400, 422))
for kind in (
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/json, text/html",
    "",
    "\xff",
    "application/xml",
):
    posted(f"type {kind[:20]}", b"{}", f"Content-Type: {kind}", may=(400, 415))
for charset in ("utf-16", "utf-7", "nothing", "latin1"):
    posted(f"charset {charset}", b"{}", f"Content-Type: application/json; charset={charset}", may=(400, 415, 422))
