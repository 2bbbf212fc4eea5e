"""Logs are machine-readable, name their audit, and contain no secrets and no examples."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from caveat_storage import keyring, keys
from caveat_storage.job_records import Database
from tests.client.models import write_audit
from tests.telemetry.collector import Collector, collecting
from tests.worker import stub_pipeline as stub
from tests.worker.live import MODEL, TABLE, Live, audit, digest, live, serving, valkey
from tests.worker.receiver import receiver, until

MARK = "PrivateWords"
"""Marks the contents and the names of all examples."""


@dataclass
class Watched:
    """An installation of separate processes, and their logs."""

    live: Live
    url: str
    key: str
    private: str
    collector: Collector

    def ask(self, method: str, path: str, **also: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | also.pop("headers", {})
        return httpx2.request(method, f"{self.url}{path}", headers=headers, **also)

    def put(self, data: bytes) -> str:
        assert self.ask("PUT", f"/v1/blobs/{digest(data)}", content=data).is_success
        return digest(data)

    def ended(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """Waits for the job to end and returns it."""
        made = self.ask("POST", f"/v1/{kind}", json=body)
        assert made.status_code == 202, made.text
        place = made.headers["Location"]
        until(lambda: self.ask("GET", place).json()["state"] in ("succeeded", "failed"), 60)
        found: dict[str, Any] = self.ask("GET", place).json()
        return found

    def lines(self) -> list[dict[str, Any]]:
        """The log lines of all processes; a line that is not JSON is an error."""
        logs = sorted(self.live.folder.glob("*.log"))
        return [json.loads(line) for log in logs for line in log.read_text().splitlines()]

    def text(self) -> str:
        return "".join(log.read_text() for log in self.live.folder.glob("*.log"))


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    pair = keyring.make()
    (tmp_path / "signing.key").write_text(pair.private)
    with ExitStack() as stack:
        port = stack.enter_context(valkey(tmp_path / "valkey"))
        there = stack.enter_context(live(tmp_path, port))
        collector = stack.enter_context(collecting())
        database = Database(there.database_url)
        key = keys.issue(database, "acme", "ci", ["submit", "read", "admin"])
        database.close()
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "CAVEAT_WEBHOOK_NETWORKS": "127.0.0.0/8"}
        url, _ = stack.enter_context(
            serving(
                tmp_path, **settings, CAVEAT_AUTH="keys", CAVEAT_SIGNING_KEY=str(tmp_path / "signing.key"),
                CAVEAT_BROKER_URL=there.environment["CAVEAT_BROKER_URL"],
            )
        )  # fmt: skip
        stack.enter_context(
            there.worker("real", including="caveat_worker.jobs.tasks", CAVEAT_LOG_LEVEL="debug", **settings)
        )
        yield Watched(there, url, key, pair.private, collector)


def test_no_secret_and_no_example_is_in_any_log(watched: Watched, tmp_path: Path) -> None:
    with receiver() as there:
        there.answers = [500]
        webhook = watched.ask("POST", "/v1/webhooks", json={"url": there.url}).json()
        rotated = watched.ask("POST", f"/v1/webhooks/{webhook['id']}:rotate").json()
        done = real_audit(watched, tmp_path)
        assert (done["state"], done["outcome"]) == ("succeeded", "fail"), done["problem"]
        attestation = watched.ask("GET", f"/v1/audits/{done['id']}/attestation")
        assert attestation.status_code == 200
        refused = [watched.ended("examples", {"examples": declared}) for declared in unreadable(watched)]
        assert {one["state"] for one in refused} == {"failed"}
        assert any(MARK in str(one["problem"]) for one in refused), "the client is shown what the log leaves out"
        there.wait(2)
    assert httpx2.get(f"{watched.url}/v1/audits", headers={"Authorization": "Bearer caveat_a_wrong"}).status_code == 401
    assert watched.ask("GET", f"/v1/audits?page_token={MARK}").status_code == 422
    assert watched.ask("GET", f"/{MARK}").status_code == 404
    assert watched.ask("POST", "/v1/audits", json={"model": MARK}).status_code == 422

    text = watched.text()
    secret = watched.key.rpartition("_")[2]
    private = watched.private.splitlines()[1]
    for hidden in (MARK, secret, private, webhook["secret"][6:], rotated["secret"][6:], "caveat_a_wrong"):
        assert hidden not in text
    about = [line for line in watched.lines() if line.get("audit") == done["id"]]
    assert {line["component"] for line in about} == {"api", "worker"}
    assert {line["trace_id"] for line in about if line["component"] == "worker"} == {
        span.trace for span in watched.collector.spans if span.attributes.get("caveat.audit.id") == done["id"]
        and span.name == "run_job"
    }  # fmt: skip


def real_audit(watched: Watched, folder: Path) -> dict[str, Any]:
    """A real audit with marked groups of people, which succeeds."""
    write_audit(folder)
    people = "a,b,c,d,e,f,race,decision\n" + "".join(
        f"{row},2,3,5,7,11,{MARK}{'ABC'[row % 3]},{row % 2}\n" for row in range(90)
    )
    arrays = {name: watched.put((folder / f"{name}.npy").read_bytes()) for name in ("pool", "leaning")}
    body = {
        "model": watched.put((folder / "mlp.onnx").read_bytes()),
        "examples": {name: {"arrays": source} for name, source in arrays.items()}
        | {"people": {"table": watched.put(people.encode()), "features": [*"abcdef"]}},
        "concepts": {"first": {"examples": "leaning", "against": "pool"}},
        "targets": {"yes": {"output": "logits", "index": 1, "examples": "pool"}},
        "layers": ["hidden"],
        "groups": {"by_race": {"examples": "people", "sensitive": ["race"], "decision": "decision"}},
        "method": {"runs": 10, "permutations": 199, "bootstrap": 99, "seed": 3},
        "gate": [{"concept": "first", "target": "yes", "must": "not_matter", "tolerance": 0.1}],
    }
    return watched.ended("audits", body)


def unreadable(watched: Watched) -> Iterator[dict[str, Any]]:
    """Example sets with a mark in the place that cannot be parsed."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as pictures:
        pictures.writestr(f"{MARK}.png", b"no picture")
    preprocess = {"size": 8, "mean": 0, "std": 1, "layout": "nchw", "channels": "rgb"}
    yield {"images": watched.put(archive.getvalue()), "preprocess": preprocess}
    yield {"arrays": watched.put(f"{MARK} is no array".encode())}
    yield {"table": watched.put(f"a,b\n1,2\n{MARK},3\n".encode()), "features": ["a"]}
    yield {"table": watched.put(f'a,b\n"{MARK}'.encode()), "features": [MARK]}
    yield {"text": watched.put(f'{{"text": "{MARK}"\n'.encode()), "tokenizer": watched.put(f"{MARK}".encode())}


def test_a_fault_in_the_child_is_logged_by_its_place_and_its_words_only_on_request(tmp_path: Path) -> None:
    with valkey(tmp_path / "valkey") as port, live(tmp_path, port) as there:
        with there.worker("quiet"):
            job_id = there.submit(stub.CRASH)
            there.wait(job_id)
        with there.worker("open", CAVEAT_CHILD_OUTPUT="true"):
            there.wait(there.submit(stub.CRASH))
    quiet = [json.loads(line) for line in (tmp_path / "quiet.log").read_text().splitlines()]
    (fault,) = [line for line in quiet if "the child failed" in line["event"]]
    assert "RuntimeError at" in fault["event"]
    assert "worker/stub_pipeline.py" in fault["event"]
    assert (fault["audit"], fault["attempt"], fault["level"]) == (job_id, 1, "error")
    assert any("bytes that are not shown" in line["event"] for line in quiet)
    assert "a secret path" not in str(quiet)
    assert "a secret path" in (tmp_path / "open.log").read_text()


def test_a_database_that_refuses_does_not_repeat_what_it_was_given(tmp_path: Path) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with pytest.raises(DBAPIError) as refused, database.writing() as connection:
        connection.execute(text("INSERT INTO nowhere VALUES (:secret)"), {"secret": MARK})
    database.close()
    assert MARK not in str(refused.value)


def test_the_api_logs_what_was_asked_once_and_nothing_of_probes(tmp_path: Path) -> None:
    with serving(tmp_path) as (url, _):
        for data in (MODEL, TABLE):
            httpx2.put(f"{url}/v1/blobs/{digest(data)}", content=data)
        job_id = httpx2.post(f"{url}/v1/audits", json=audit()).json()["id"]
        httpx2.get(f"{url}/readyz")
    lines = [json.loads(line) for line in (tmp_path / "api.log").read_text().splitlines()]
    (asked,) = [line for line in lines if line["event"] == "POST create_audit"]
    assert (asked["audit"], asked["status"], asked["tenant"], asked["level"]) == (job_id, 202, "default", "info")
    assert asked["seconds"] >= 0
    assert not any("readyz" in line["event"] or "get_readiness" in line["event"] for line in lines)
