"""The path of a job from the API over a real broker to a real worker and back, with and without faults."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caveat_spec.artifacts import Stage
from caveat_spec.jobs import in_flight
from caveat_storage import job_records, job_state
from caveat_worker.jobs import reaper
from caveat_worker.jobs.limits import Limits
from caveat_worker.jobs.settings import Settings
from caveat_worker.jobs.supervisor import Finished, supervise
from tests.worker import stub_pipeline as stub
from tests.worker.live import MODEL, TABLE, Live, audit, digest, end, live, valkey


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """An installation whose worker runs during all tests of this file."""
    folder = tmp_path_factory.mktemp("live")
    with valkey(folder / "valkey") as port, live(folder, port) as there, there.worker():
        yield there


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Live]:
    """An installation with a broker and without workers."""
    with valkey(tmp_path / "valkey") as port, live(tmp_path, port) as there:
        yield there


def test_an_audit_runs_and_its_report_is_that_of_the_local_mode_byte_for_byte(running: Live) -> None:
    record = running.wait(running.submit())
    assert (record["state"], record["stage"], record["progress"], record["attempts"]) == ("succeeded", "done", 1.0, 1)
    assert record["outcome"] == "pass"
    remote = running.client.get(f"/v1/audits/{record['id']}/report")
    assert digest(remote.data) == record["report_digest"]

    stored = {digest(MODEL): MODEL, digest(TABLE): TABLE}
    local = supervise(
        "audit", audit(), lambda name, file: file.write(stored[name]) and None, limits=Limits(),
        on_progress=lambda *_: None, should_stop=lambda: False, pipeline="tests.worker.stub_pipeline",
    )  # fmt: skip
    assert local == Finished(remote.data)


def with_maps(seed: int) -> dict[str, Any]:
    explained = {"targets": {"t": {"examples": "people"}}, "explain": {"why": {"of": "t", "show": ["saliency"]}}}
    return audit(seed) | explained | {"keep": "maps"}


def test_maps_go_from_the_child_to_whoever_asks(running: Live) -> None:
    asked = running.client.post("/v1/audits", json=with_maps(stub.FINISH))
    record = running.wait(asked.json["id"])
    assert (record["state"], record["maps_digest"]) == ("succeeded", digest(stub.MAPS))
    assert running.client.get(f"/v1/audits/{record['id']}/maps").data == stub.MAPS


def test_maps_that_a_report_does_not_name_are_no_result(running: Live) -> None:
    asked = running.client.post("/v1/audits", json=with_maps(stub.OTHER_MAPS))
    record = running.wait(asked.json["id"])
    assert (record["state"], record["maps_digest"]) == ("failed", None)
    assert record["problem"]["detail"] == "The child process of this audit ended with status 0 and left no result."


def test_a_model_and_an_example_set_are_looked_into(running: Live) -> None:
    asked = running.client.post(
        "/v1/models", json={"blob": digest(MODEL), "name": "net"}, headers={"Prefer": "wait=20"}
    )
    assert asked.status_code == 200
    assert (asked.json["name"], asked.json["state"]) == ("net", "succeeded")
    assert asked.json["inspection"]["inputs"] == []
    examples = {"arrays": digest(TABLE)}
    asked = running.client.post("/v1/examples", json={"examples": examples}, headers={"Prefer": "wait=20"})
    assert asked.json["summary"]["count"] == len(TABLE)


def test_what_the_engine_refuses_comes_back_with_its_pointer_and_remedy(running: Live) -> None:
    record = running.wait(running.submit(stub.REFUSE))
    assert record["state"] == "failed"
    problem = record["problem"]
    assert problem["type"] == "urn:caveat:problem:unknown-layer"
    assert (problem["status"], problem["remedy"]) == (422, "Name one of: a, b.")
    assert problem["errors"] == [{"pointer": "/layers/0", "detail": "Layer 'x' does not exist."}]


def test_a_child_that_is_killed_again_and_again_fails_its_audit_which_says_so(running: Live) -> None:
    record = running.wait(running.submit(stub.KILLED))
    assert record["problem"]["detail"] == "The child process of this audit was killed by signal 9 (SIGKILL)."
    assert "memory" in record["problem"]["remedy"]
    assert record["attempts"] == int(running.environment["CAVEAT_ATTEMPTS"])


def test_a_fault_of_ours_shows_no_trace_of_itself_to_the_client(running: Live) -> None:
    problem = running.wait(running.submit(stub.CRASH))["problem"]
    assert problem["status"] == 500
    assert "secret" not in str(problem)


@pytest.mark.parametrize("stage", stub.STAGES)
def test_a_running_audit_is_cancelled_long_before_its_stage_ends(running: Live, stage: Stage) -> None:
    job_id = running.submit(stub.SLEEP_AT[stage])
    running.wait(job_id, "running", stage=stage)
    began = time.monotonic()
    assert running.client.post(f"/v1/audits/{job_id}:cancel").status_code == 202
    assert running.wait(job_id)["state"] == "cancelled"
    assert time.monotonic() - began < stub.ASLEEP / 3  # within two seconds on a machine that has nothing else to do


def test_a_job_that_is_published_often_runs_once(running: Live) -> None:
    job_id = running.submit(500)
    publisher = running.client.application.extensions["caveat"].publisher
    assert all(publisher.publish(job_id) for _ in range(5))
    assert running.wait(job_id)["attempts"] == 1
    later = running.wait(running.submit())
    assert later["state"] == "succeeded"
    assert running.get(job_id)["attempts"] == 1


@pytest.mark.slow
def test_each_worker_takes_what_is_for_it_and_is_counted_for_it_alone(fresh: Live) -> None:
    publisher = fresh.client.application.extensions["caveat"].publisher
    with fresh.worker("cpu", CAVEAT_QUEUES="default,large"), fresh.worker("gpu", CAVEAT_QUEUES="gpu"):
        cuda, plain = fresh.submit(stub.SLEEP, provider="cuda"), fresh.submit(500)
        assert (fresh.get(cuda)["queue"], fresh.get(plain)["queue"]) == ("gpu", "default")
        fresh.wait(cuda, "running", stage="testing")
        assert fresh.wait(plain)["state"] == "succeeded"
        assert (claimed_by(fresh, plain), claimed_by(fresh, cuda)) == ("cpu@test", "gpu@test")
        broker = publisher.app.connection_for_write().default_channel.client
        assert {name: broker.hlen(name) for name in (in_flight(["gpu"]), in_flight(["default", "large"]))} == {
            "unacked.gpu": 1,
            "unacked.default.large": 0,
        }
        late = fresh.submit(provider="cuda")
        assert publisher.publish(late, "default"), "a message in the wrong queue"
        fresh.client.post(f"/v1/audits/{cuda}:cancel")
        assert fresh.wait(late)["state"] == "succeeded"
        assert claimed_by(fresh, late) == "gpu@test"
        assert fresh.client.get("/readyz").json["queues"] == {"default": 1, "gpu": 1, "large": 1}


@pytest.mark.slow
def test_an_audit_for_a_gpu_that_nobody_has_runs_on_the_cpu_after_a_while(fresh: Live) -> None:
    with fresh.worker("cpu", CAVEAT_QUEUES="default,large", CAVEAT_REROUTE_SECONDS="2"):
        record = fresh.wait(fresh.submit(provider="cuda"))
    assert (record["state"], record["queue"]) == ("succeeded", "default")
    stream = fresh.client.get(f"/v1/audits/{record['id']}/events").text
    assert "event: reroute" in stream
    assert "no worker served the queue 'gpu'" in stream


def claimed_by(there: Live, job_id: str) -> str:
    """The worker of the last attempt."""
    history = job_records.history(there.client.application.extensions["caveat"].database, "default", job_id)
    return str([event.data["worker"] for event in history if event.what == "claim"][-1])


def test_the_stream_of_events_tells_the_whole_story(running: Live) -> None:
    job_id = running.submit()
    stream = running.client.get(f"/v1/audits/{job_id}/events").text
    kinds = [line.removeprefix("event: ") for line in stream.splitlines() if line.startswith("event: ")]
    assert kinds[:2] == ["submit", "claim"]
    assert kinds[-1] == "succeed"
    last = stream.split("id: ")[-2].split("\n")[0]
    rest = running.client.get(f"/v1/audits/{job_id}/events", headers={"Last-Event-ID": last}).text
    assert rest.count("event: ") == 1
    end_of_story = rest.split("id: ")[1].split("\n")[0]
    assert running.client.get(f"/v1/audits/{job_id}/events", headers={"Last-Event-ID": end_of_story}).status_code == 204


def test_readiness_names_the_workers(running: Live) -> None:
    running.wait(running.submit())  # by then the worker has reported
    answer = running.client.get("/readyz").json
    assert answer["status"] == "ready"
    assert list(answer["workers"]) == ["one@test"]
    assert answer["broker"] == "up"


def test_an_audit_that_came_while_the_broker_was_down_is_kept_and_runs_when_it_is_back(tmp_path: Path) -> None:
    with valkey(tmp_path / "valkey") as port:
        pass
    with live(tmp_path, port) as there:
        began = time.monotonic()
        job_id = there.submit()
        assert time.monotonic() - began < 3
        assert there.get(job_id)["state"] == "queued"
        assert there.client.get("/readyz").json["broker"] == "down"
        with valkey(tmp_path / "valkey-again", port), there.worker():
            assert there.wait(job_id)["state"] == "succeeded"


@pytest.mark.slow
def test_a_broker_that_forgets_everything_loses_nothing(fresh: Live) -> None:
    kept = [fresh.submit() for _ in range(3)]
    fresh.client.application.extensions["caveat"].publisher.app.connection_for_write().default_channel.client.flushall()
    with fresh.worker():
        assert {fresh.wait(job_id)["state"] for job_id in kept} == {"succeeded"}


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_its_job_to_another_one(fresh: Live) -> None:
    job_id = fresh.submit(1500)
    with fresh.worker("first") as first:
        fresh.wait(job_id, "running")
        end(first)
    with fresh.worker("second"):
        record = fresh.wait(job_id)
    assert (record["state"], record["attempts"]) == ("succeeded", 2)


@pytest.mark.slow
def test_a_job_whose_workers_keep_vanishing_fails_and_says_so(fresh: Live) -> None:
    job_id = fresh.submit(stub.SLEEP)
    for attempt, name in enumerate(("first", "second"), 1):
        with fresh.worker(name) as worker:
            fresh.wait(job_id, "running", attempts=attempt)
            end(worker)
    with fresh.worker("third"):
        record = fresh.wait(job_id)
    assert record["state"] == "failed"
    assert record["problem"]["type"] == "urn:caveat:problem:worker-lost"
    assert "2 times" in record["problem"]["detail"]


@pytest.mark.slow
def test_a_worker_that_is_told_to_leave_gives_its_job_back_and_the_attempt_does_not_count(fresh: Live) -> None:
    job_id = fresh.submit(2500)
    with fresh.worker("leaving") as worker:
        fresh.wait(job_id, "running")
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.wait(15) is not None
        assert fresh.get(job_id)["state"] == "queued"
    with fresh.worker("next"):
        record = fresh.wait(job_id)
    assert (record["state"], record["attempts"]) == ("succeeded", 1)


def test_a_leaving_worker_asks_for_its_jobs_again_after_a_fault_of_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = job_state.ask_to_release, list[int]()

    def ask(database: job_records.Database, worker: str) -> int:
        asked.append(1)
        if len(asked) == 2:
            reaper._gone.set()
        return real(database, worker)  # which fails, since there are no tables

    place = Settings(database_url=f"sqlite:///{tmp_path / 'empty.db'}", grace_seconds=0)
    monkeypatch.setattr(reaper, "settings", lambda: place)
    monkeypatch.setattr(reaper, "_gone", threading.Event())
    monkeypatch.setattr(job_state, "ask_to_release", ask)
    reaper._ask_back("one")
    assert len(asked) == 2
