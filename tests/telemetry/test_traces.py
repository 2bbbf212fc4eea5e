"""One trace from the request to the stages in the sandboxed child, exported by real processes to a real receiver."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.telemetry.collector import Collector, collecting
from tests.worker import stub_pipeline as stub
from tests.worker.live import MODEL, TABLE, audit, digest, live, serving, valkey
from tests.worker.receiver import until

SERVER, CONSUMER = 2, 5
ATTEMPTS = 2
"""Number of times that a job whose child was killed is started."""
CLIENTS = "4bf92f3577b34da6a3ce929d0e0e4736"


def asked(url: str, seed: int, **headers: str) -> str:
    for data in (MODEL, TABLE):
        httpx2.put(f"{url}/v1/blobs/{digest(data)}", content=data)
    made = httpx2.post(f"{url}/v1/audits", json=audit(seed), headers=headers)
    assert made.status_code == 202, made.text
    return str(made.json()["id"])


def test_one_trace_leads_from_the_request_to_the_stages_in_the_child(tmp_path: Path) -> None:
    with collecting() as there, valkey(tmp_path / "valkey") as port, live(tmp_path, port) as installation:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": there.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "CAVEAT_LEASE_SECONDS": "60",
            "CAVEAT_ATTEMPTS": str(ATTEMPTS),
        }
        broker = installation.environment["CAVEAT_BROKER_URL"]
        with (
            serving(tmp_path, CAVEAT_BROKER_URL=broker, **settings) as (url, _),
            installation.worker(**settings),
        ):
            job_id = asked(url, 0, traceparent=f"00-{CLIENTS}-00f067aa0ba902b7-01")
            installation.wait(job_id)
            killed = asked(url, stub.KILLED)
            installation.wait(killed)
            until(lambda: len([span for span in there.spans if span.name == "run_job"]) == 1 + ATTEMPTS)
            httpx2.get(f"{url}/healthz")
    check(there, job_id)
    check_killed(there, killed)
    assert {span.service for span in there.spans} == {"caveat-api", "caveat-worker"}
    assert not any("healthz" in span.name for span in there.spans)


def check(there: Collector, job_id: str) -> None:
    spans = {span.name: span for span in there.spans if span.trace == CLIENTS}
    request, run, child = spans["POST /v1/audits"], spans["run_job"], spans["child"]
    assert (request.kind, request.parent, request.service) == (SERVER, "00f067aa0ba902b7", "caveat-api")
    assert (run.kind, run.parent, run.service) == (CONSUMER, request.id, "caveat-worker")
    assert {spans[name].parent for name in ("fetch", "child", "store")} == {run.id}
    assert {spans[name].parent for name in ("loading", "reporting")} == {child.id}
    assert spans.keys() == {
        "POST /v1/audits", "run_job", "fetch", "child", "store", "loading", "reporting",
    }  # fmt: skip
    assert {span.attributes.get("caveat.audit.id") for name, span in spans.items() if name != "store"} == {job_id}
    assert child.begun <= spans["loading"].begun <= spans["loading"].ended == spans["reporting"].begun <= child.ended
    assert (request.attributes["http.response.status_code"], run.attributes["caveat.end"]) == (202, "finished")


def check_killed(there: Collector, job_id: str) -> None:
    """The spans of a child that was killed, for each of its attempts."""
    runs = [span for span in there.spans if span.name == "run_job" and span.attributes["caveat.audit.id"] == job_id]
    assert sorted(run.attributes["caveat.attempt"] for run in runs) == list(range(1, ATTEMPTS + 1))
    (trace,) = {run.trace for run in runs}
    spans = [span for span in there.spans if span.trace == trace]
    children = {span.id: span.parent for span in spans if span.name == "child"}
    assert set(children.values()) == {run.id for run in runs}
    assert {span.parent for span in spans if span.name == "loading"} == children.keys()


@pytest.mark.slow
def test_without_an_endpoint_nothing_is_traced(tmp_path: Path) -> None:
    with valkey(tmp_path / "valkey") as port, live(tmp_path, port) as installation, installation.worker():
        job_id = installation.submit(traceparent=f"00-{CLIENTS}-00f067aa0ba902b7-01")
        assert installation.wait(job_id)["state"] == "succeeded"
    assert "opentelemetry" not in (tmp_path / "one.log").read_text()
