"""The values that the chart rejects, and its generated files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chart.conftest import CHART, ROOT, helm

pytestmark = pytest.mark.slow

REFUSED = {
    "a typo": (["--set", "api.replica=3"], "additional properties 'replica' not allowed"),
    "a typo in a pool": (["--set", "workers.cpu.concurency=2"], "additional properties 'concurency' not allowed"),
    "a setting that is none": (["--set", "api.settings.CAVEAT_LONGEST=3"], "'CAVEAT_LONGEST' not allowed"),
    "a setting that the chart makes": (["--set", "api.settings.CAVEAT_PORT=3"], "'CAVEAT_PORT' not allowed"),
    "a setting out of bounds": (["--set", "api.settings.CAVEAT_LONGEST_WAIT=-1"], "minimum"),
    "no worker left to publish jobs whose messages were lost": (
        ["--set", "worker.autoscaling.enabled=true,worker.autoscaling.minReplicas=0"],
        "must be at least 1",
    ),
    "a queue that is none": (["--set", "workers.cpu.queues={gpus}"], "value must be one of"),
    "a pool with nothing to do": (
        ["--set", "workers.cpu.queues={default,gpu,large}", "--set", "workers.other.replicas=1"],
        "serves no queue",
    ),
    "a place that is no bucket": (["--set", "blobs.url=/data"], "does not match pattern"),
    "a digest that is none": (["--set", "images.api.digest=latest"], "does not match pattern"),
    "an ingress without a host": (["--set", "ingress.enabled=true"], "minItems"),
    "an external service without egress": (
        ["--set", "database.existingSecret=places"],
        "networkPolicy.external allows no",
    ),
    "a collector without egress": (["--set", "tracing.endpoint=http://c:4318"], "networkPolicy.tracing allows no"),
    "an unconfined sandbox": (["--set", "worker.seccompProfile.type=Unconfined"], "value must be one of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str) -> None:
    arguments, reason = REFUSED[case]
    done = helm("template", "rel", str(CHART), *arguments)
    assert done.returncode != 0
    assert reason in done.stderr


def test_needs_a_kubernetes_that_it_was_checked_against() -> None:
    done = helm("template", "rel", str(CHART), "--kube-version", "1.24.0")
    assert done.returncode != 0
    assert "kubeVersion" in done.stderr


def test_tells_whom_it_lets_in() -> None:
    """`helm template` does not render the notes; a client-side dry run does."""
    open_to_all = helm("install", "rel", str(CHART), "--dry-run=client")
    assert "WARNING: no keys are required" in open_to_all.stdout, open_to_all.stderr
    closed = helm("install", "rel", str(CHART), "--dry-run=client", "--set", "api.settings.CAVEAT_AUTH=keys")
    assert "WARNING" not in closed.stdout


def test_generated_files_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "helm/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_value_is_in_the_schema_with_its_default() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


def test_the_small_audit_is_what_its_script_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "helm/small_audit.py", str(tmp_path)], cwd=ROOT, check=True)
    for path in (CHART / "files" / "audit").iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
