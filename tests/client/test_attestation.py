"""Keys, attestations and their verification, as a person uses them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from caveat.attestation import location
from caveat.cli import cli
from caveat.pack import addressed
from caveat_reports.canonical import canonical
from caveat_spec.attestation import Run
from caveat_spec.gate import decide
from caveat_spec.report import ExampleSetSummary, Verdict
from caveat_storage import attestations, keyring
from tests.api_spec import handmade
from tests.client.conftest import ROOT, Command
from tests.client.models import write_audit

LINE = {"concept": "mark", "target": "carton", "must": "not_matter"}
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture
def build(audit_file: Path) -> Path:
    """A folder as a build leaves it: a model, two folders of pictures, keys, a report and its attestation."""
    folder = audit_file.parent
    made = invoke("keygen", folder / "caveat")
    assert made.exit_code == 0
    sources = {name: addressed(folder / name)[1] for name in ("model.onnx", "photos", "marked")}
    asked: dict[str, Any] = json.loads(json.dumps(handmade.AUDIT)) | {"model": sources["model.onnx"], "gate": [LINE]}
    for name in ("photos", "marked"):
        asked["examples"][name]["images"] = sources[name]
    report = handmade.report(handmade.row())
    audit = type(report.audit).model_validate(asked)
    sets = [ExampleSetSummary(name=name, source=sources[name], count=3, kind="images") for name in ("photos", "marked")]
    plan = report.plan.model_copy(update={"examples": sets})
    report = report.model_copy(update={"audit": audit, "plan": plan, "verdict": decide(report, audit.gate)})
    (folder / "report.json").write_bytes(canonical(report))
    write_envelope(folder, canonical(report))
    return folder


def write_envelope(folder: Path, report: bytes, **changed: Any) -> None:
    run = Run(audit=None, where="https://ci.example/42", started_at=MOMENT, finished_at=MOMENT)
    statement = attestations.state(report, run)
    statement = statement.model_copy(update={"predicate": statement.predicate.model_copy(update=changed)})
    signers = keyring.signers((folder / "caveat.key").read_text())
    (folder / "report.dsse.json").write_bytes(attestations.sign(statement, signers))


def verify(folder: Path, *more: str | Path, key: str = "caveat.pub") -> Result:
    return invoke("verify", folder / "report.dsse.json", "--key", folder / key, *more)


def everything(folder: Path) -> list[str | Path]:
    examples = [part for name in ("photos", "marked") for part in ("--examples", f"{name}={folder / name}")]
    return ["--report", folder / "report.json", "--model", folder / "model.onnx", *examples]


def test_it_says_in_words_what_was_audited(build: Path) -> None:
    result = verify(build, *everything(build))
    assert result.exit_code == 0, result.output
    assert re.search(r"✓ The signature of the key [0-9a-f]{12} is valid\.", result.output)
    for name in ("photos", "marked"):
        assert f"{build / name} is the example set {name} that was audited" in result.output
    assert "Verdict, versions and digests match the report." in result.output
    assert "was audited by Caveat 0 at https://ci.example/42,\nfrom 2026-01-02 03:04:05" in result.output
    assert "The gate passes.\n✓ mark must not matter to carton: " in result.output
    assert "·" not in result.output


def test_what_was_not_compared_is_said(build: Path) -> None:
    result = verify(build)
    assert result.exit_code == 0
    for option in ("--report PATH", "--model PATH", "--examples photos=PATH", "--examples marked=PATH"):
        assert f"was not compared; pass {option} to compare it." in result.output


@pytest.mark.parametrize("name", ["report.json", "model.onnx", "photos/1.png", "marked/2.png"])
def test_any_other_byte_in_a_file_is_told(build: Path, name: str) -> None:
    data = bytearray((build / name).read_bytes())
    data[len(data) // 2] ^= 1
    (build / name).write_bytes(data)
    result = verify(build, *everything(build))
    assert result.exit_code == 1
    assert f"✗ {build / name.partition('/')[0]} is not the " in result.output


def test_a_picture_more_or_less_is_told(build: Path) -> None:
    (build / "photos" / "1.png").unlink()
    assert "✗" in verify(build, *everything(build)).output


def test_a_changed_envelope_proves_nothing(build: Path) -> None:
    envelope = (build / "report.dsse.json").read_bytes()
    (build / "report.dsse.json").write_bytes(envelope.replace(b'"sig":"', b'"sig":"A', 1))
    result = verify(build)
    assert result.exit_code == 1
    assert "proves nothing" in result.output
    assert "was audited" not in result.output


def test_another_key_proves_nothing(build: Path) -> None:
    assert invoke("keygen", build / "other").exit_code == 0
    result = verify(build, key="other.pub")
    assert result.exit_code == 1
    assert "none of those that were given" in result.output
    assert verify(build, "--key", build / "other.pub").exit_code == 0


def test_a_signer_who_makes_up_a_verdict_is_found_out_by_the_report(build: Path) -> None:
    report = (build / "report.json").read_bytes()
    write_envelope(build, report, verdict=Verdict(outcome="fail", lines=[]))
    assert verify(build).exit_code == 0
    result = verify(build, "--report", build / "report.json")
    assert result.exit_code == 1
    assert "the signer stated something else" in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--examples", "stripes=photos"], "no example set 'stripes'"),
        (["--examples", "photos"], "use NAME=PATH"),
        (["--model", "absent.onnx"], "absent.onnx cannot be read: No such file"),
        (["--key", "photos/0.png"], "photos/0.png cannot be used. There is no public key"),
    ],
)
def test_what_cannot_be_looked_at_exits_with_2(
    build: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(build)
    result = verify(build, *arguments)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())


class TestKeygen:
    def test_only_its_owner_reads_the_private_half(self, build: Path) -> None:
        assert (build / "caveat.key").stat().st_mode & 0o777 == 0o600

    def test_a_key_is_never_replaced(self, build: Path) -> None:
        before = (build / "caveat.key").read_bytes()
        again = invoke("keygen", build / "caveat")
        assert again.exit_code == 2
        assert "exists already" in again.stderr
        assert (build / "caveat.key").read_bytes() == before


class TestSigning:
    def test_a_report_that_is_decided_again_is_not_attested(self, build: Path) -> None:
        result = invoke("gate", "--report", build / "report.json", "--attestation", build / "again.dsse.json")
        assert result.exit_code == 2

    def test_a_key_is_asked_for_before_anything_runs(self, build: Path) -> None:
        attestation = ["--attestation", build / "a.dsse.json"]
        result = invoke("gate", build / "audit.yaml", *attestation)
        assert result.exit_code == 2
        assert "--sign-key" in result.stderr
        result = invoke("gate", build / "audit.yaml", *attestation, "--sign-key", build / "caveat.pub")
        assert result.exit_code == 2
        assert "There is no private key" in result.stderr

    def test_a_ci_job_says_where_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "/" not in location()
        monkeypatch.setenv("BUILD_URL", "https://jenkins.example/job/1/")
        assert location() == "https://jenkins.example/job/1/"
        github = {
            "GITHUB_ACTIONS": "true",
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_REPOSITORY": "a/b",
            "GITHUB_RUN_ID": "7",
        }
        for name, value in github.items():
            monkeypatch.setenv(name, value)
        assert location() == "https://github.example/a/b/actions/runs/7"


@pytest.mark.xdist_group("up")
def test_an_audit_is_attested_here_and_by_the_service(
    tmp_path: Path, command: Command, service: str, service_keys: keyring.Pair
) -> None:
    write_audit(tmp_path)
    (tmp_path / "service.pub").write_text(service_keys.public)
    assert command("keygen").returncode == 0
    files = ("--report", "report.json", "--model", "mlp.onnx", "--examples", "pool=pool.npy")
    outputs = ("gate", "audit.yaml", "--json", "report.json", "--attestation", "a.dsse.json")
    here = command(*outputs, CAVEAT_SIGNING_KEY=(tmp_path / "caveat.key").read_text())
    assert here.returncode == 1, here.stderr
    checked = command("verify", "a.dsse.json", "--key", "caveat.pub", *files)
    assert checked.returncode == 0, checked.stdout
    there = command(*outputs, CAVEAT_URL=service)
    assert there.returncode == 1, there.stderr
    checked = command("verify", "a.dsse.json", "--key", "service.pub", *files)
    assert checked.returncode == 0, checked.stdout
    assert re.search(r"at celery@\S+, as audit [0-9a-z]{26},", checked.stdout)
    assert command("verify", "a.dsse.json", "--key", "caveat.pub").returncode == 1


@pytest.mark.slow
@pytest.mark.xdist_group("up")
def test_what_moved_since_the_last_passing_audit_is_shown(tmp_path: Path, command: Command, service: str) -> None:
    path = write_audit(tmp_path, must="matter")
    grows = "  - {concept: first, target: yes, must: not_grow, tolerance: 0.1}\n"
    path.write_text((path.read_text() + grows).replace("yes", "granted"))  # a question that no other test asks
    first = command("gate", "audit.yaml", "--json", "first.json", "--baseline", "last", CAVEAT_URL=service)
    assert first.returncode == 4
    assert "there is no baseline to compare with" in first.stderr
    assert "no baseline report was given" in first.stdout.lower()
    again = command("gate", "audit.yaml", "--baseline", "last", "--attestation", "a.dsse.json", CAVEAT_URL=service)
    assert "Since the baseline no figure moved beyond noise, of 1 compared." in again.stdout
    assert again.returncode == 2, "the service's attestation is about its own verdict"
    assert "Sign the report yourself, with --sign-key." in again.stderr
    assert command("gate", "--report", "first.json", "--baseline", "last").returncode == 2


def test_the_light_base_verifies() -> None:
    """An auditor installs the base alone: no server, no engine, and no cryptography either."""
    servers = {"caveat_service", "caveat_worker", "celery", "flask", "fsspec", "sqlalchemy"}
    heavy = servers | {"numpy", "onnx", "onnxruntime"}
    script = (
        "import sys\n"
        "sys.modules['cryptography'] = None\n"
        "import caveat.attestation, caveat.terminal\n"
        f"sys.exit(', '.join({heavy!r} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
