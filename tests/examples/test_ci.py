"""The ready pieces for pipelines: their shell runs as it stands in the files, their YAML fits its schema."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from caveat_reports.canonical import canonical
from caveat_storage import keyring
from tests.api_spec import handmade
from tests.client import sigstore_stand_in
from tests.client.conftest import ROOT
from tests.client.models import write_audit
from tests.examples.cluster_types import faults_of_argo, faults_of_kserve

CI = ROOT / "examples" / "ci"
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository as a job finds it, with an audit that fails by its gate."""
    write_audit(tmp_path)
    return tmp_path


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A step of a job on a runner that has Caveat."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CAVEAT_", "GITHUB_"))}
    told = inherited | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | environment
    return subprocess.run(command, cwd=folder, env=told, capture_output=True, text=True, timeout=120, check=False)


def yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path)


class TestGitHub:
    @staticmethod
    def steps(folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
        """The steps of the action, with its inputs as GitHub fills them in."""
        action = yaml(CI / "github" / "action.yml")
        given = {name: about["default"] for name, about in action["inputs"].items()} | inputs
        github = {
            "GITHUB_ACTIONS": "true",
            "GITHUB_OUTPUT": str(folder / "output"),
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        }
        done = subprocess.CompletedProcess[str]([], 0)
        for step in action["runs"]["steps"]:
            filled = {
                name: re.sub(r"\$\{\{ inputs\.([\w-]+) }}", lambda found: given[found[1]], value)
                for name, value in step["env"].items()
            }
            assert "${{" not in step["run"], "what comes from outside reaches a script by its environment only"
            done = run([*BASH, step["run"]], folder, **github, **filled)
            if done.returncode:
                break
        return done

    def test_a_gate_that_fails_fails_the_job_and_says_where(self, checkout: Path) -> None:
        (checkout / "base line.json").write_bytes(canonical(handmade.report(handmade.row())))
        key = keyring.make()
        done = self.steps(
            checkout, baseline="base line.json", attestation="true", **{"signing-key": key.private}
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert (checkout / "output").read_text() == "outcome=fail\n"
        assert re.search(r"^::error file=audit\.yaml,line=12,", done.stdout, re.M)
        assert "first must not matter to yes" in (checkout / "summary.md").read_text()
        results = {file.name for file in (checkout / "caveat-results").iterdir()}
        assert results == {"report.json", "report.html", "junit.xml", "report.sarif", "report.dsse.json"}

    def test_a_job_signs_by_its_identity(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """At a Sigstore that stands in for the public one, and for GitHub's issuer of tokens."""
        with sigstore_stand_in.running() as sigstore:
            (checkout / "trust config.json").write_text(sigstore.trust_config())
            monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of-this-job")
            monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{sigstore.url}/token?job=1")
            done = self.steps(checkout, sigstore="true", **{"trust-config": "trust config.json"})
        assert done.returncode == 1, done.stderr
        assert "Signed as https://github.com/our/models/.github/workflows/gate.yml@refs/heads/main" in done.stderr
        assert (checkout / "caveat-results" / "report.json.sigstore.json").exists()

    def test_a_sigstore_that_is_not_there_is_told(self, checkout: Path) -> None:
        done = self.steps(checkout, sigstore="true", **{"trust-config": "absent.json"})
        assert done.returncode == 2
        assert "absent.json cannot be read" in done.stderr

    def test_what_is_no_audit_is_an_error(self, checkout: Path) -> None:
        assert self.steps(checkout, audit="absent.yaml").returncode == 2
        assert (checkout / "output").read_text() == "outcome=error\n"

    def test_the_workflow_gives_the_action_inputs_that_it_has(self) -> None:
        (job,) = yaml(CI / "github" / "workflow.yml")["jobs"].values()
        (used,) = [step["with"] for step in job["steps"] if step["uses"].startswith("./")]
        assert set(used) <= set(yaml(CI / "github" / "action.yml")["inputs"])


def test_gitlab(checkout: Path) -> None:
    job = yaml(CI / "gitlab" / "caveat.gitlab-ci.yml")[".caveat"]
    done = run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(job["before_script"] + job["script"])],
        checkout,
        **job["variables"],
    )
    assert done.returncode == 1, done.stderr
    for report in job["artifacts"]["reports"].values():
        assert (checkout / report.replace("$CAVEAT_RESULTS", "caveat-results")).stat().st_size > 0
    (issue,) = json.loads((checkout / "caveat-results" / "gl-code-quality-report.json").read_text())
    assert issue["location"] == {"path": "audit.yaml", "lines": {"begin": 12}}


def test_jenkins(checkout: Path) -> None:
    said = (CI / "jenkins" / "Jenkinsfile").read_text()
    (script,) = re.findall(r"'''(.*?)'''", said, re.S)
    audit = re.search(r"name: 'AUDIT', defaultValue: '(.*?)'", said)
    assert audit is not None
    done = run(["sh", "-xe", "-c", script], checkout, AUDIT=audit[1])
    assert done.returncode == 1, done.stderr
    for pattern in re.findall(r"(?:testResults|artifacts): '(.*?)'", said):
        assert list(checkout.glob(pattern))
    code = re.sub(r"'''.*?'''|'[^']*'|\"[^\"]*\"|//[^\n]*", "", said, flags=re.S)
    assert all(code.count(one) == code.count(other) > 0 for one, other in ("{}", "()"))


class TestArgo:
    TEMPLATE = yaml(CI / "argo" / "gate.yaml")

    def gate(self, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """The step, with `/tmp/caveat` below the folder."""
        (template,) = self.TEMPLATE["spec"]["templates"]
        script = template["script"]
        assert "{{" not in script["source"], "what comes from outside reaches a script by its environment only"
        source = script["source"].replace("/tmp/caveat", str(folder / "tmp"))
        return run([*script["command"], "-c", source], folder, INCONCLUSIVE="4", **environment)

    def test_a_gate_that_fails_fails_the_step_and_leaves_its_reports(self, checkout: Path) -> None:
        done = self.gate(checkout, AUDIT="audit.yaml")
        assert done.returncode == 1, done.stderr
        (template,) = self.TEMPLATE["spec"]["templates"]
        given = {
            one["name"]: Path(one["valueFrom"]["path"].replace("/tmp/caveat", str(checkout / "tmp"))).read_text()
            for one in template["outputs"]["parameters"]
        }
        (reports,) = template["outputs"]["artifacts"]
        kept = Path(reports["path"].replace("/tmp/caveat", str(checkout / "tmp")))
        assert given == {"outcome": "fail", "report": sha256((kept / "report.json").read_bytes()).hexdigest()}
        assert {file.name for file in kept.iterdir()} == {"report.json", "report.html", "junit.xml"}

    def test_what_is_no_audit_is_an_error_and_has_no_report(self, checkout: Path) -> None:
        assert self.gate(checkout, AUDIT="absent.yaml").returncode == 2
        assert (checkout / "tmp" / "outcome").read_text() == "error"
        assert not (checkout / "tmp" / "digest").exists()

    @pytest.mark.slow
    def test_only_a_failure_of_the_infrastructure_is_tried_again(self, checkout: Path) -> None:
        (template,) = self.TEMPLATE["spec"]["templates"]
        assert template["retryStrategy"]["expression"] == "asInt(lastRetry.exitCode) == 3"
        done = self.gate(checkout, AUDIT="audit.yaml", CAVEAT_URL="http://127.0.0.1:9", CAVEAT_KEY="x")
        assert done.returncode == 3, done.stderr

    def test_the_image_is_that_of_this_version(self) -> None:
        (template,) = self.TEMPLATE["spec"]["templates"]
        assert template["script"]["image"].partition(":")[2] == version("caveat")


@pytest.mark.parametrize(
    ("file", "kind"), [("argo/gate.yaml", "WorkflowTemplate"), ("kserve/release.yaml", "Workflow")]
)
def test_workflows_fit_the_types_of_argo(file: str, kind: str) -> None:
    workflow = yaml(CI / file)
    assert faults_of_argo(workflow, kind) == []
    workflow["spec"]["templates"][0]["retryStratgy"] = {}
    assert faults_of_argo(workflow, kind) == ["/spec/templates/0/retryStratgy: Argo has no such field"]
    workflow["spec"]["entrypoint"] = 3
    assert faults_of_argo(workflow, kind) == ["/spec/entrypoint: Input should be a valid string"]


def test_the_release_serves_what_its_gate_let_through() -> None:
    workflow = yaml(CI / "kserve" / "release.yaml")
    release, serve = workflow["spec"]["templates"]
    first, second = release["steps"]
    used = TestArgo.TEMPLATE
    assert first[0]["templateRef"] == {
        "name": used["metadata"]["name"],
        "template": used["spec"]["templates"][0]["name"],
    }
    assert second[0]["template"] == serve["name"]
    service = YAML(typ="safe").load(serve["resource"]["manifest"])
    assert faults_of_kserve(service, "V1beta1InferenceService") == []
    status = serve["resource"]["successCondition"].partition(" ")[0].split(".")
    assert faults_of_kserve({"modelStatus": {status[-1]: "UpToDate"}}, "V1beta1InferenceServiceStatus") == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"predictr": {}}, "/spec/predictr: KServe has no such field"),
        (
            {"predictor": {"model": {"storageURI": "s3://x"}}},
            "/spec/predictor/model/storageURI: KServe has no such field",
        ),
        ({"predictor": {"minReplicas": "1"}}, "/spec/predictor/minReplicas: '1' is no int"),
        (
            {"predictor": {"model": {"resources": {"request": {}}}}},
            "/spec/predictor/model/resources/request: Kubernetes has no such field",
        ),
    ],
)
def test_the_check_of_services_would_tell(change: dict[str, Any], fault: str) -> None:
    service = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "spec": change}
    assert faults_of_kserve(service, "V1beta1InferenceService") == [fault]


@pytest.mark.parametrize(
    ("schema", "file", "more"),
    [
        ("vendor.github-actions", "github/action.yml", []),
        ("vendor.github-workflows", "github/workflow.yml", []),
        ("vendor.gitlab-ci", "gitlab/caveat.gitlab-ci.yml", ["--data-transform", "gitlab-ci"]),
    ],
)
def test_yaml_fits_its_schema(schema: str, file: str, more: list[str]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *more, str(CI / file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
