"""The command's verdicts and exit codes, where no engine is needed."""

from __future__ import annotations

import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from click.testing import CliRunner, Result

from caveat import commands
from caveat.cli import cli
from caveat.yaml_source import read_document
from caveat_reports.canonical import canonical
from caveat_spec.formats import FORMATS
from caveat_spec.gate import decide
from caveat_spec.report import Report
from tests.api_spec import handmade
from tests.client.conftest import Command

LINE: dict[str, Any] = {"concept": "mark", "target": "carton", "must": "not_matter"}
PASSING, FAILING, OPEN = (
    handmade.row(),
    handmade.row(in_sd=1.0, interval=(0.8, 1.2), p=0.001),
    handmade.row(interval=(-0.5, 0.5)),
)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)


def written(folder: Path, row: Any, *lines: dict[str, Any]) -> Path:
    """A report whose gate has these lines."""
    report = handmade.report(row)
    audit = type(report.audit).model_validate(report.audit.model_dump() | {"gate": list(lines)})
    report = report.model_copy(update={"audit": audit, "verdict": decide(report, audit.gate)})
    path = folder / "report.json"
    path.write_bytes(canonical(report))
    return path


def policy(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("row", "code", "word"), [(PASSING, 0, "Passes"), (FAILING, 1, "Fails"), (OPEN, 4, "Inconclu")]
)
def test_a_report_is_decided_again_by_its_own_gate(tmp_path: Path, row: Any, code: int, word: str) -> None:
    result = invoke("gate", "--report", written(tmp_path, row, LINE))
    assert result.exit_code == code
    assert result.output.startswith(word)
    assert "mark must not matter to carton: " in result.output


@pytest.mark.parametrize(("choice", "code"), [("pass", 0), ("fail", 1), ("4", 4)])
def test_inconclusive_exits_as_asked(tmp_path: Path, choice: str, code: int) -> None:
    assert invoke("gate", "--report", written(tmp_path, OPEN, LINE), "--inconclusive", choice).exit_code == code


def test_a_gate_without_lines_passes_and_says_so(tmp_path: Path) -> None:
    result = invoke("gate", "--report", written(tmp_path, PASSING))
    assert result.exit_code == 0
    assert "without a verdict" in result.output


def test_a_policy_decides_in_place_of_the_gate(tmp_path: Path) -> None:
    report = written(tmp_path, FAILING, LINE)
    lax = policy(tmp_path, "gate:\n- {concept: mark, target: carton, must: not_matter, tolerance: 2}\n")
    again = tmp_path / "again.json"
    result = invoke("gate", "--report", report, "--policy", lax, "--json", again)
    assert result.exit_code == 0
    decided = Report.model_validate_json(again.read_bytes())
    assert decided.verdict.outcome == "pass"
    assert decided.audit.gate[0].model_dump()["tolerance"] == 2
    assert again.read_bytes() == canonical(decided)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "gate:\n- {concept: stripes, target: carton, must: matter}",
            "policy.yaml:2:13: /gate/0/concept names the conc",
        ),
        ("gate:\n- {concept: mark, target: carton, must: mattr}", "policy.yaml:2:41: gate.0.must should be"),
        ("gate", "policy.yaml:1:1: "),
    ],
)
def test_a_policy_that_does_not_fit_is_invalid(tmp_path: Path, text: str, told: str) -> None:
    result = invoke("gate", "--report", written(tmp_path, PASSING), "--policy", policy(tmp_path, text))
    assert result.exit_code == 2
    assert told in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["gate"],
        ["gate", "a.yaml", "--report", "r.json"],
        ["gate", "a.yaml", "--policy", "p.yaml"],
        ["gate", "--report", "r.json", "--attestation", "a.json"],
        ["verify", "a.json"],
        ["gat"],
        ["up", "-1"],
    ],
)
def test_usage_exits_with_2(arguments: list[str]) -> None:
    assert invoke(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("content", "told"), [(None, "cannot be read"), ("{}", "is not a report"), ("[", "is not a report")]
)
def test_what_is_no_report_exits_with_2(tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    result = invoke("gate", "--report", path)
    assert result.exit_code == 2
    assert told in result.stderr
    assert "Remedy: " in result.stderr


def test_faults_of_an_audit_file_are_told_where_they_are(audit_file: Path) -> None:
    audit_file.write_text(audit_file.read_text().replace("model.onnx", "absent.onnx").replace("marked/", "nowhere/"))
    result = invoke("gate", audit_file)
    assert result.exit_code == 2
    assert f"{audit_file}:1:8: there is no 'absent.onnx'" in result.stderr
    assert f"{audit_file}:4:20: there is no 'nowhere/'" in result.stderr


def test_a_server_that_is_not_there_exits_with_3(audit_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caveat.transport.RETRY_SECONDS", 0.2)
    result = invoke("gate", audit_file, "--url", "http://127.0.0.1:9")
    assert result.exit_code == 3
    assert "does not respond" in result.stderr
    assert "0% waiting for the service" in result.stderr
    assert "stamina" not in result.stderr
    assert invoke("gate", audit_file, "--url", "ftp://x").exit_code == 2


def test_github_gets_a_summary_and_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    lines = policy(tmp_path, "gate:\n\n- {concept: mark, target: carton, must: not_matter}")
    result = invoke("gate", "--report", written(tmp_path, FAILING), "--policy", lines)
    place = r"^::error file=.*policy\.yaml,line=3,col=3,title=mark must not matter to carton"
    assert re.search(f"{place}::By association, at ", result.output, re.M)
    assert summary.read_text().startswith("before\n")
    assert "mark must not matter to carton" in summary.read_text()


def test_what_moved_since_a_baseline_is_shown_and_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    baseline = written(tmp_path, PASSING, LINE).rename(tmp_path / "baseline.json")
    report = written(tmp_path, FAILING, LINE | {"must": "not_grow"})
    result = invoke("gate", "--report", report, "--baseline", baseline, "--json", tmp_path / "decided.json")
    assert result.exit_code == 1
    assert "Since the baseline the one figure moved beyond noise." in result.output
    assert re.search(
        r"^effect of mark → carton at block +0\.000 +\+1\.000 +\+1\.000 +±0\.206  beyond", result.output, re.M
    )
    assert "moved beyond noise" in summary.read_text()
    decided = Report.model_validate_json((tmp_path / "decided.json").read_bytes())
    assert decided.verdict.outcome == "fail"
    assert invoke("gate", "--report", report).exit_code == 4
    assert invoke("gate", "--report", report, "--baseline", report).exit_code == 4, "noise is wider than the tolerance"
    assert invoke("gate", "--report", report, "--baseline", tmp_path / "absent.json").exit_code == 2


def test_findings_are_shown_at_the_gates_lines(tmp_path: Path) -> None:
    lines = policy(tmp_path, "gate:\n\n- {concept: mark, target: carton, must: not_matter}")
    sarif, gitlab = tmp_path / "r.sarif", tmp_path / "r.gitlab"
    report = written(tmp_path, FAILING)
    invoke("gate", "--report", report, "--policy", lines, "--sarif", sarif, "--gitlab", gitlab)
    place = json.loads(sarif.read_text())["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"].endswith("policy.yaml")
    assert place["region"] == {"startLine": 3, "startColumn": 3}
    assert json.loads(gitlab.read_text())[0]["location"]["lines"] == {"begin": 3}


def test_every_format_is_written(tmp_path: Path) -> None:
    report = written(tmp_path, FAILING, LINE)
    formats = {form.name: tmp_path / "out" / f"r.{form.name}" for form in FORMATS}
    arguments = [argument for name, path in formats.items() for argument in (f"--{name}", path)]
    assert invoke("gate", "--report", report, *arguments).exit_code == 1
    assert formats["json"].read_bytes() == report.read_bytes()
    assert formats["html"].read_text().lower().startswith("<!doctype html>")
    assert json.loads(formats["sarif"].read_text())["version"] == "2.1.0"
    assert "<testsuite" in formats["junit"].read_text()
    result = invoke("gate", "--report", report, "--html", "/proc/nowhere/r.html")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_the_schema_knows_a_good_audit_from_a_bad_one(audit_file: Path) -> None:
    schema = json.loads(invoke("schema").output)
    jsonschema.Draft202012Validator.check_schema(schema)
    audit = read_document(audit_file)[0]
    jsonschema.validate(audit, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(audit | {"modle": "x"}, schema)


def test_exit_codes_of_real_processes(tmp_path: Path, command: Command) -> None:
    assert command("gate", "--report", written(tmp_path, PASSING, LINE)).returncode == 0
    failed = command("gate", "--report", written(tmp_path, FAILING, LINE))
    assert failed.returncode == 1
    assert "\x1b" not in failed.stdout
    assert command("gate", "absent.yaml").returncode == 2
    assert command("gate").returncode == 2
    assert command("gate", "--report", written(tmp_path, OPEN, LINE)).returncode == 4


def test_a_mistyped_command_is_told_which_was_meant(command: Command) -> None:
    told = command("gat", "audit.yaml")
    assert told.returncode == 2
    assert re.search(r"No such command 'gat'\. Did you mean `.*caveat gate`\?", told.stderr)
    assert "Did you mean" not in command("xyzzy").stderr


def test_every_module_of_commands_is_a_command_that_is_listed() -> None:
    modules = {name for _, name, _ in pkgutil.iter_modules(commands.__path__)} - {"group", "options"}
    assert {name.replace("_", "-") for name in modules} == set(cli.list_commands(click.Context(cli)))


def test_help_loads_nothing_that_it_does_not_show() -> None:
    """What keeps `caveat --help` quick: it reads no contract, draws no table and opens no connection."""
    script = (
        "import sys, caveat.cli\n"
        "from click.testing import CliRunner\n"
        "assert CliRunner().invoke(caveat.cli.cli, ['--help']).exit_code == 0\n"
        "sys.exit(', '.join({'pydantic', 'rich', 'httpx2', 'ruamel', 'jinja2', 'stamina'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_engine_starts_before_anything_else_is_loaded() -> None:
    """Its imports are what a small audit waits for; this process reads the contract and the audit meanwhile."""
    script = (
        "import sys\n"
        "from caveat_worker.jobs import forkserver\n"
        "def started(self, environment):\n"
        "    sys.exit(', '.join({'pydantic', 'ruamel', 'jinja2', 'json'} & set(sys.modules)) or 77)\n"
        "forkserver.Forkserver.__init__ = started\n"
        "sys.argv = ['caveat', 'gate', '--local', 'absent.yaml']\n"
        "import caveat.cli\n"
        "caveat.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 77, done.stderr


def test_a_local_gate_loads_no_client_no_server_and_no_engine() -> None:
    """What keeps a small audit quick: this process reads, watches and shows, and the one that it starts computes."""
    heavy = {"httpx2", "stamina", "structlog", "fsspec", "sqlalchemy", "boto3", "numpy", "onnx", "celery"}
    script = (
        "import sys, caveat.cli, caveat.local_engine, caveat.gate, caveat.local, caveat.outputs\n"
        "import caveat_worker.jobs.limits, caveat_worker.jobs.supervisor\n"
        f"sys.exit(', '.join({heavy!r} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_starts_the_engine_reads_no_contract() -> None:
    """The engine is imported at the same time as the contract, not after it."""
    script = (
        "import sys, caveat.cli, caveat.local_engine, caveat_worker.jobs.forkserver\n"
        "import caveat_worker.jobs.environment, caveat_worker.jobs.limits\n"
        "sys.exit(', '.join({'caveat_spec.audit', 'caveat_spec.report'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_client_needs_no_engine_and_no_server(tmp_path: Path, audit_file: Path, command: Command) -> None:
    """The light base: nothing of the service or the worker is imported to read, resolve, send, decide and show."""
    engine = {"caveat_worker", "numpy", "onnx", "onnxruntime", "pandas"}
    heavy = engine | {"caveat_service", "celery", "flask", "sqlalchemy"}
    script = (
        "import sys, caveat.gate, caveat.remote, caveat.outputs, caveat.scaffold, caveat.schema, caveat.inspection\n"
        "import caveat_reports.html, caveat_reports.markdown, caveat_reports.junit\n"
        "import caveat_reports.sarif, caveat_reports.gitlab, caveat_reports.openmetrics\n"
        "from caveat import Client, AsyncClient\n"
        f"sys.exit(', '.join({heavy!r} & set(sys.modules)) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
