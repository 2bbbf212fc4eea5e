"""Third-party linters on the chart, the Dockerfile and the compose file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.chart.conftest import CHART, ROOT, TOOLS, VALUES, Release, helm, render, tool

pytestmark = pytest.mark.slow

KUBERNETES = ("1.30", "1.34", "1.37")
OF_OTHERS = {"gateway.networking.k8s.io/v1", "keda.sh/v1alpha1", "monitoring.coreos.com/v1"}

ACCEPTED = {
    "CKV_K8S_8": "The pod of `helm test` ends by itself: it has a deadline, not probes.",
    "CKV_K8S_9": "As above.",
    "CKV_K8S_15": "A tag is never written twice, and a digest may stand in its place: Always would only add pulls.",
    "CKV_K8S_31": "A pool may name a profile of its own (Localhost), which the restricted standard allows.",
    "CKV_K8S_35": "Settings are variables, secrets too: a file hides no more from those who may exec into the pod.",
    "CKV_K8S_40": "PostgreSQL and Valkey keep the user to whom their images give their files (999).",
    "CKV_K8S_43": "Digests are `images.*.digest`: only the person who builds and pushes the images knows them.",
    "CKV_DOCKER_7": "The tag of the base is in BASE_IMAGE.",
}
"""Checks of checkov that do not apply here, with the reason; a check that passes must be removed."""


def run(*command: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False, cwd=ROOT)


def test_helm_lints() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_production_values_lint() -> None:
    done = helm("lint", "--strict", str(CHART), "--values", str(CHART / "values-production.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", KUBERNETES)
def test_is_valid_for_kubernetes(release: Release, version: str, tmp_path: Path) -> None:
    """Strict validation, which rejects fields that Kubernetes does not know."""
    path = tmp_path / f"{release.name}.yaml"
    path.write_text(release.text)
    done = run(tool("linters", "bin", "kubernetes-validate"), "--strict", "-k", version, str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    unknown = [line for line in done.stdout.splitlines() + done.stderr.splitlines() if "Couldn't find schema" in line]
    assert all(any(api in line for api in OF_OTHERS) for line in unknown), unknown


def test_custom_resources_are_valid(release: Release) -> None:
    """Validation with the published schemas of KEDA, the Gateway API and the Prometheus operator."""
    resources = [manifest for manifest in release.manifests if manifest["apiVersion"] in OF_OTHERS]
    tool("schemas", "node_modules")
    done = run("node", str(TOOLS / "schemas" / "validate.js"), given=json.dumps(resources))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"{len(resources)} resources, 0 faults\n")


def test_the_schemas_refuse_what_is_wrong() -> None:
    wrong = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "x"}, "spec": {}}
    tool("schemas", "node_modules")
    done = run("node", str(TOOLS / "schemas" / "validate.js"), given=json.dumps([wrong]))
    assert done.returncode == 1
    assert "ScaledObject x" in done.stdout


def test_checkov_finds_nothing_but_what_is_accepted(tmp_path: Path) -> None:
    for name in VALUES:
        (tmp_path / f"{name}.yaml").write_text(render(name).text)
    (tmp_path / "Dockerfile").write_text((ROOT / "Dockerfile").read_text())
    done = run(tool("linters", "bin", "checkov"), "--directory", str(tmp_path), "--quiet", "--skip-download",
               "--framework", "kubernetes", "dockerfile", "--output", "json")  # fmt: skip
    results = json.loads(done.stdout)
    assert {one["check_type"] for one in results} == {"kubernetes", "dockerfile"}
    found = {
        one["check_id"]: f"{one['check_name']}: {one['resource']} ({one['file_path']})"
        for part in results
        for one in part["results"]["failed_checks"]
    }
    assert {check: words for check, words in found.items() if check not in ACCEPTED} == {}
    assert ACCEPTED.keys() == found.keys(), "an accepted finding no longer occurs"


def test_hadolint_finds_nothing() -> None:
    done = run(tool("linters", "bin", "hadolint"), "Dockerfile")
    assert done.returncode == 0, done.stdout
