"""The metrics for Prometheus; dashboard, alerts and documentation use no others."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from caveat_service.metrics import registry
from caveat_service.state import AppContext
from caveat_spec.jobs import QUEUES
from caveat_storage import job_records, job_state
from tests.worker.live import MODEL, TABLE, audit, digest

HELM = Path(__file__).parents[2] / "helm" / "caveat" / "files"
PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.fixture
def read(client: FlaskClient) -> dict[tuple[str, tuple[str, ...]], float]:
    """All metrics after one audit of each outcome: name and labels → value."""
    app_context: AppContext = client.application.extensions["caveat"]
    for data in (MODEL, TABLE):
        client.put(f"/v1/blobs/{digest(data)}", data=data)
    client.post("/v1/webhooks", json={"url": "https://example.org/"})
    ids = [client.post("/v1/audits", json=audit()).json["id"] for _ in range(3)]
    client.post(f"/v1/audits/{ids[0]}:cancel")
    for job_id, lasts in ((ids[1], timedelta(hours=1)), (ids[2], timedelta(0))):
        lease = job_state.claim(app_context.database, job_id, worker="w", lasts=lasts)
        assert lease is not None
        if lasts:
            job_state.advance(app_context.database, lease, "collecting", 0.5)
            job_state.succeed(app_context.database, lease, {"outcome": "pass"})
    job_state.expire(app_context.database, attempts=1, backoff=timedelta(0))
    client.post("/v1/audits", json=audit(provider="cuda"))
    job_records.record_worker(app_context.database, "one@host", ["network"], ["default", "large"])
    text = generate_latest(registry(app_context.database)).decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_they_tell_what_happened(read: dict[tuple[str, tuple[str, ...]], float]) -> None:
    assert [read["caveat_audits_total", (state,)] for state in ("succeeded", "failed", "cancelled")] == [1, 1, 1]
    assert read["caveat_audit_duration_seconds_count", ("collecting",)] == 1
    assert read["caveat_audit_duration_seconds_count", ("queued",)] == 3
    assert read["caveat_audit_duration_seconds_bucket", ("+Inf", "queued")] == 3
    assert [read["caveat_queue_depth", (queue,)] for queue in QUEUES] == [0, 1, 0]
    assert [read["caveat_queue_workers", (queue,)] for queue in QUEUES] == [1, 0, 1]
    assert read["caveat_lease_expired_total", ()] == 1
    assert read["caveat_webhooks", ("enabled",)] == 1
    assert read["caveat_webhook_deliveries", ("pending",)] == 3
    assert (read["caveat_workers", ()], read["caveat_workers_lacking", ("network",)]) == (1, 1)


@pytest.mark.parametrize("name", ["dashboard.json", "alerts.yaml"])
def test_the_dashboard_and_the_alerts_ask_for_metrics_that_are_there(
    name: str, read: dict[tuple[str, tuple[str, ...]], float]
) -> None:
    asked = set(re.findall(r"\bcaveat_\w+", (HELM / name).read_text()))
    assert asked
    assert asked <= {sample for sample, _ in read}


def test_every_label_that_the_dashboard_asks_for_is_there(read: dict[tuple[str, tuple[str, ...]], float]) -> None:
    queries = [
        target["expr"]
        for panel in json.loads((HELM / "dashboard.json").read_text())["panels"]
        for target in panel.get("targets", [])
    ]
    assert all("caveat_" in query for query in queries)
    for metric, value in re.findall(r'(caveat_\w+)\{\w+="(\w+)"', " ".join(queries)):
        known = {labels for sample, labels in read if sample == metric}
        assert metric in ("caveat_events_total", "caveat_jobs") or any(value in labels for labels in known), metric


def test_the_page_names_every_metric(read: dict[tuple[str, tuple[str, ...]], float]) -> None:
    page = PAGE.read_text()
    names = {re.sub(r"_(bucket|count|sum|created)$", "", sample) for sample, _ in read}
    assert {name for name in names if f"`{name}" not in page} == set()
