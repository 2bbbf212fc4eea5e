"""The client retries what may be retried, waits as it is told, and says what was refused in the server's own words."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx2
import pytest

from caveat import AsyncClient, Client, ProblemError, remote
from caveat.endpoints import ServerError, should_retry
from caveat.pack import chunks, digest
from caveat_spec.artifacts import Job
from caveat_spec.audit import Audit
from caveat_spec.problem import ProblemDetails
from tests.api_spec.handmade import AUDIT

RECORD: dict[str, Any] = {
    "id": "a1",
    "state": "queued",
    "stage": "queued",
    "progress": 0.0,
    "attempts": 1,
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
    "problem": None,
    "audit": AUDIT,
    "outcome": None,
    "report_digest": None,
}
Answer = httpx2.Response | Exception


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between looks take no time, but are counted."""
    taken: list[float] = []
    monkeypatch.setattr("caveat.client.sleep", taken.append)

    async def asleep(seconds: float) -> None:
        taken.append(seconds)

    monkeypatch.setattr("caveat.async_client.sleep", asleep)
    return taken


def record(**changes: Any) -> httpx2.Response:
    return httpx2.Response(200, json=RECORD | changes, headers={"ETag": '"1"'})


def refusal(status: int, **headers: str) -> httpx2.Response:
    problem = ProblemDetails.of("busy", status, "The server is busy.", "Wait.")
    return httpx2.Response(status, content=problem.model_dump_json(), headers=headers)


class Script:
    """A server that gives these answers, one after the other, and remembers what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.asked = list(answers), list[httpx2.Request]()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return httpx2.Response(answer.status_code, content=answer.content, headers=answer.headers)

    async def later(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        return self(request)


def both(script: Callable[[], Script], use: Callable[[Any], Any]) -> Iterator[tuple[Any, Script]]:
    """What `use` makes of the sync and of the async client, each with a script of its own."""
    one, two = script(), script()
    with Client("http://caveat", "key", transport=httpx2.MockTransport(one)) as client:
        yield use(client), one

    async def later() -> Any:
        async with AsyncClient("http://caveat", "key", transport=httpx2.MockTransport(two.later)) as client:
            return await use(client)

    yield asyncio.run(later()), two


def kept(offset: int, *, complete: bool = False) -> httpx2.Response:
    """What the server says of an upload."""
    return httpx2.Response(200, json={"digest": "sha256:" + "0" * 64, "offset": offset, "complete": complete})


def done(size: int) -> httpx2.Response:
    return httpx2.Response(201, json={"digest": "sha256:" + "0" * 64, "size": size})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three megabytes."""
    file = tmp_path / "blob"
    file.write_bytes(bytes(range(256)) * (3 << 12))
    return file


@pytest.mark.parametrize("missing", [True, False])
def test_a_blob_is_streamed_unless_it_is_there(file: Path, missing: bool) -> None:
    answers = [kept(0), done(3 << 20)] if missing else [kept(3 << 20, complete=True)]
    for name, script in both(lambda: Script(*answers), lambda client: client.put(file)):
        assert name == digest(file)
        assert [request.method for request in script.asked] == (["GET", "PATCH"] if missing else ["GET"])
        assert {request.url.path for request in script.asked} == {f"/v1/uploads/{name}"}
        assert script.asked[-1].headers["Authorization"] == "Bearer key"
        if missing:
            sent = script.asked[1]
            assert sent.content == file.read_bytes()
            assert (sent.headers["Upload-Offset"], sent.headers["Upload-Complete"]) == ("0", "?1")
            assert sent.headers["Content-Length"] == str(3 << 20)
            assert "Transfer-Encoding" not in sent.headers


def test_an_upload_that_broke_off_goes_on_where_it_did(file: Path) -> None:
    shares: list[float] = []
    answers = [kept(0), httpx2.ReadError("reset"), kept(2 << 20), done(3 << 20)]
    for _, script in both(
        lambda: Script(*answers), lambda client: client.put(file, None, lambda _, s: shares.append(s))
    ):
        assert [request.method for request in script.asked] == ["GET", "PATCH"] * 2
        assert script.asked[-1].headers["Upload-Offset"] == str(2 << 20)
        assert script.asked[-1].headers["Content-Length"] == str(1 << 20)
        assert script.asked[-1].content == file.read_bytes()[2 << 20 :]
    assert shares == [1 / 3, 2 / 3, 1.0, 1.0] * 2


def test_an_upload_that_broke_after_it_had_arrived_is_not_sent_again(file: Path) -> None:
    answers = [kept(0), httpx2.ReadError("reset"), kept(3 << 20, complete=True)]
    for _, script in both(lambda: Script(*answers), lambda client: client.put(file)):
        assert [request.method for request in script.asked] == ["GET", "PATCH", "GET"]


def test_an_upload_asks_again_where_the_server_stands_elsewhere(file: Path) -> None:
    other = ProblemDetails.of("other-offset", 409, "1 byte of this upload is kept.", "Go on at 1.")
    refused = httpx2.Response(409, content=other.model_dump_json())
    for _, script in both(lambda: Script(kept(0), refused, kept(1), done(3 << 20)), lambda client: client.put(file)):
        assert script.asked[-1].headers["Upload-Offset"] == "1"


def test_an_upload_may_take_longer_than_a_server_may_be_away(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit counts from the last byte that was sent, not from the first."""
    script = Script(kept(0), httpx2.WriteError("broken"), kept(0), done(3 << 20))

    def slow(file: Path, offset: int) -> Iterator[bytes]:
        for chunk in chunks(file, offset):
            time.sleep(0.2)
            yield chunk

    monkeypatch.setattr("caveat.transport.chunks", slow)
    with Client("http://caveat", retry_for=0.3, transport=httpx2.MockTransport(script)) as client:
        assert client.put(file) == digest(file)
    assert script.asked[-1].content == file.read_bytes()


def test_an_upload_that_breaks_off_at_the_same_byte_again_and_again_is_given_up(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caveat.transport.UPLOAD_ATTEMPTS", 2)
    broken = httpx2.WriteError("broken")
    script = Script(*[kept(0), broken] * 2, *[kept(5), broken] * 2, *[kept(7), broken] * 2, kept(7))
    client = Client("http://caveat", transport=httpx2.MockTransport(script))
    with client, pytest.raises(ProblemError, match="repeatedly breaks off at byte 7") as caught:
        client.put(file)
    assert caught.value.exit_code == 3
    assert not script.answers


@pytest.mark.parametrize(
    "trouble",
    [httpx2.ConnectError("refused"), httpx2.ReadTimeout("slow"), refusal(503), refusal(429, **{"Retry-After": "0"})],
)
def test_passing_trouble_is_waited_out_with_the_same_key(trouble: Answer) -> None:
    audit = Audit.model_validate(AUDIT)
    for started, script in both(lambda: Script(trouble, trouble, record()), lambda client: client.start(audit, "once")):
        assert started.id == "a1"
        assert [request.headers["Idempotency-Key"] for request in script.asked] == ["once"] * 3


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7.0), ("100000", 60.0), ("a date", 30.0), ("soon", None), (None, None)],
)
def test_a_server_says_when_to_come_back(said: str | None, seconds: float | None) -> None:
    said = formatdate(time.time() + 30, usegmt=True) if said == "a date" else said
    answer = refusal(429, **({} if said is None else {"Retry-After": said}))
    with (
        Client("http://caveat", retry_for=0.0, transport=httpx2.MockTransport(Script(answer))) as client,
        pytest.raises(ServerError) as caught,
    ):
        client.audit("a1")
    pause = should_retry(caught.value)
    assert (
        pause is True
        if seconds is None
        else pause == pytest.approx(timedelta(seconds=seconds), abs=timedelta(seconds=2))
    )


def test_a_request_is_sent_again_after_the_pause_that_the_server_asked_for() -> None:
    script = Script(refusal(503, **{"Retry-After": "1"}), record())
    with Client("http://caveat", transport=httpx2.MockTransport(script)) as client:
        asked = time.monotonic()
        client.audit("a1")
    assert time.monotonic() - asked >= 1.0


def test_a_refusal_is_told_in_the_servers_words_and_not_repeated() -> None:
    for status, code in ((422, 2), (401, 3), (500, 3)):
        script = Script(refusal(status))
        client = Client("http://caveat", transport=httpx2.MockTransport(script))
        with client, pytest.raises(ProblemError, match=r"The server is busy\. Wait\.") as caught:
            client.audit("a1")
        assert caught.value.exit_code == code
        assert len(script.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [httpx2.Response(200, text="<html>"), httpx2.Response(404, text="nginx"), httpx2.Response(301, text="moved")],
)
def test_what_is_not_caveat_is_said_to_be_infrastructure(answer: httpx2.Response) -> None:
    client = Client("http://caveat", transport=httpx2.MockTransport(Script(answer)))
    with client, pytest.raises(ProblemError, match="Check that the URL is a Caveat service") as caught:
        client.audit("a1")
    assert caught.value.exit_code == 3


def test_a_server_that_stays_away_is_given_up() -> None:
    script = Script(*[httpx2.ConnectError("refused")] * 50)
    client = Client("http://caveat", retry_for=0.3, transport=httpx2.MockTransport(script))
    with client, pytest.raises(ProblemError, match="does not respond: refused") as caught:
        client.audit("a1")
    assert caught.value.exit_code == 3


def test_waiting_looks_as_often_as_it_is_told_and_costs_little(pauses: list[float]) -> None:
    seen: list[tuple[str, float]] = []

    def answers() -> Script:
        return Script(
            record(),
            httpx2.Response(
                200, json=RECORD | {"stage": "collecting", "progress": 0.4}, headers={"ETag": '"2"', "Retry-After": "7"}
            ),
            httpx2.Response(304, headers={"Retry-After": "3"}),
            record(state="succeeded", stage="done", progress=1.0, outcome="pass"),
        )

    for ended, script in both(answers, lambda client: client.wait("a1", lambda *news: seen.append(news))):
        assert ended.outcome == "pass"
        assert [request.headers.get("If-None-Match") for request in script.asked] == [None, None, '"2"', '"2"']
    assert pauses == [7, 3] * 2
    assert seen == [("queued", 0.0), ("collecting", 0.4), ("collecting", 0.4), ("done", 1.0)] * 2


@pytest.mark.parametrize(("status", "code"), [(422, 2), (500, 3)])
def test_a_failed_audit_raises_its_problem(status: int, code: int) -> None:
    problem = json.loads(ProblemDetails.of("broken", status, "The model is broken.", "Mend it.").model_dump_json())
    with (
        Client(
            "http://caveat", transport=httpx2.MockTransport(Script(record(state="failed", problem=problem)))
        ) as client,
        pytest.raises(ProblemError, match="The model is broken") as caught,
    ):
        client.wait("a1")
    assert caught.value.exit_code == code


def test_a_cancelled_audit_is_no_verdict() -> None:
    client = Client("http://caveat", transport=httpx2.MockTransport(Script(record(state="cancelled"))))
    with client, pytest.raises(ProblemError, match="cancelled") as caught:
        client.wait("a1")
    assert caught.value.exit_code == 3


def test_pages_are_followed() -> None:
    pages = [{"audits": [RECORD], "next_page_token": "n"}, {"audits": [RECORD | {"id": "a2"}], "next_page_token": None}]

    async def collected(client: AsyncClient) -> list[Any]:
        return [one async for one in client.audits()]

    def use(client: Any) -> Any:
        return list(client.audits()) if isinstance(client, Client) else collected(client)

    for audits, script in both(lambda: Script(*[httpx2.Response(200, json=page) for page in pages]), use):
        assert [one.id for one in audits] == ["a1", "a2"]
        assert script.asked[1].url.query == b"page_token=n"


@pytest.mark.parametrize(
    ("method", "path", "field"), [("models", "/v1/models", "models"), ("example_sets", "/v1/examples", "examples")]
)
def test_models_and_example_sets_are_listed_too(method: str, path: str, field: str) -> None:
    one = {key: value for key, value in RECORD.items() if key in Job.model_fields} | {"name": None}
    one |= (
        {"blob": AUDIT["model"], "inspection": None}
        if field == "models"
        else {"examples": AUDIT["examples"]["photos"], "summary": None}
    )
    pages = [{field: [one | {"id": name}], "next_page_token": after} for name, after in (("b", "b"), ("a", None))]

    async def collected(client: AsyncClient) -> list[Any]:
        return [each async for each in getattr(client, method)()]

    def use(client: Any) -> Any:
        return list(getattr(client, method)()) if isinstance(client, Client) else collected(client)

    for listed, script in both(lambda: Script(*[httpx2.Response(200, json=page) for page in pages]), use):
        assert [each.id for each in listed] == ["b", "a"]
        assert [(str(asked.url.path), asked.url.query) for asked in script.asked] == [
            (path, b""),
            (path, b"page_token=b"),
        ]


def test_an_attestation_is_fetched_as_it_is() -> None:
    for fetched, script in both(lambda: Script(httpx2.Response(200, content=b"{}")), lambda one: one.attestation("a1")):
        assert fetched == b"{}"
        assert script.asked[0].url.path == "/v1/audits/a1/attestation"


def test_the_address_and_the_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProblemError, match="No Caveat service is named"):
        Client()
    monkeypatch.setenv("CAVEAT_URL", "http://elsewhere/")
    monkeypatch.setenv("CAVEAT_KEY", "secret")
    script = Script(record())
    with Client(transport=httpx2.MockTransport(script)) as client:
        client.audit("a/1")
    assert str(script.asked[0].url) == "http://elsewhere/v1/audits/a%2F1"
    assert script.asked[0].headers["Authorization"] == "Bearer secret"


def test_an_interrupt_cancels_the_servers_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    from caveat.auditfile import Resolved

    script = Script(record(), record(), record(), record(state="cancelled"))
    real = httpx2.Client

    def scripted(**options: Any) -> httpx2.Client:
        return real(**options | {"transport": httpx2.MockTransport(script)})

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("caveat.client.httpx2.Client", scripted)
    monkeypatch.setattr("caveat.client.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        remote.run_audit("http://caveat", None, Resolved(Audit.model_validate(AUDIT), {}, []), lambda *_: None)
    assert [request.url.path for request in script.asked][-1] == "/v1/audits/a1:cancel"


def test_a_vector_is_asked_for_by_names_that_may_have_slashes() -> None:
    answer = httpx2.Response(200, content=b"\x93NUMPY")
    for found, script in both(lambda: Script(answer), lambda client: client.cav("a1", "stripes", "/conv/0:out@mean")):
        assert found == b"\x93NUMPY"
        assert script.asked[0].url.raw_path == b"/v1/audits/a1/cavs/stripes/%2Fconv%2F0%3Aout%40mean"
