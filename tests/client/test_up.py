"""The whole journey for real: Valkey, a worker, the API, and the same audit there and here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

import onnx
import pytest

from caveat import Client
from caveat.auditfile import read_audit
from caveat_reports.canonical import digest
from caveat_spec.artifacts import AuditRecord
from caveat_spec.report import Report
from tests.client.conftest import ROOT, Command, started
from tests.client.models import write_audit

pytestmark = pytest.mark.xdist_group("up")


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def test_there_and_here_give_the_same_bytes(tmp_path: Path, command: Command, service: str) -> None:
    write_audit(tmp_path)
    here = command("gate", "audit.yaml", "--json", "here.json", "--html", "here.html")
    there = command("gate", "audit.yaml", "--json", "there.json", CAVEAT_URL=service)
    assert (here.returncode, there.returncode) == (1, 1), (here, there)
    assert here.stdout == there.stdout
    assert here.stdout.startswith("Fails: ")
    assert re.search(r"^ *\d+% \w+$", here.stderr, re.M), "progress is told in plain lines"
    assert (tmp_path / "here.json").read_bytes() == (tmp_path / "there.json").read_bytes()
    report = Report.model_validate_json((tmp_path / "here.json").read_bytes())
    assert report.verdict.outcome == "fail"
    again = command("gate", "--report", "there.json", "--json", "again.json")
    assert again.returncode == 1
    assert again.stdout == here.stdout
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "here.json").read_bytes()


@pytest.mark.slow
def test_a_fault_that_the_service_finds_points_into_the_audit_file(
    tmp_path: Path, command: Command, service: str
) -> None:
    path = write_audit(tmp_path)
    path.write_text(path.read_text().replace("output: logits", "output: logist"))
    here, there = command("gate", "audit.yaml"), command("gate", "audit.yaml", CAVEAT_URL=service)
    assert (here.returncode, there.returncode) == (2, 2)
    assert re.search(r"audit\.yaml:8:\d+: ", here.stderr)
    assert here.stderr.partition("Error:")[2] == there.stderr.partition("Error:")[2]


@pytest.mark.slow
def test_layers_and_a_first_audit_come_from_either(tmp_path: Path, command: Command, service: str) -> None:
    write_audit(tmp_path)
    asked = ("layers", "mlp.onnx", "--output", "deep", "--index", "2")
    here, there = command(*asked), command(*asked, CAVEAT_URL=service)
    assert here.returncode == 0
    assert here.stdout == there.stdout
    assert "class 2 of tensor 'deep'" in here.stdout
    assert "logits   Gemm" not in here.stdout
    wrote = command("init", "mlp.onnx", "--write", "first.yaml", CAVEAT_URL=service)
    assert wrote.returncode == 0, wrote.stderr
    assert "Next: caveat gate first.yaml" in wrote.stdout
    assert read_audit(tmp_path / "first.yaml").audit.model == "mlp.onnx"
    assert command("init", "mlp.onnx", "--write", "first.yaml", CAVEAT_URL=service).returncode == 2


@pytest.mark.slow
def test_layers_of_a_class_that_is_not_there_are_refused(tmp_path: Path, command: Command) -> None:
    write_audit(tmp_path)
    wrong = command("layers", "mlp.onnx", "--index", "9")
    assert wrong.returncode == 2
    assert "/index: Target 'target' asks for class 9, but output 'logits' has 2 classes" in wrong.stderr


def test_the_last_audit_that_passed_is_the_baseline(tmp_path: Path, command: Command, service: str) -> None:
    path = write_audit(tmp_path, must="matter")
    path.write_text(path.read_text().replace("yes", "agreed"))  # a question that no other test asks
    first = command("gate", "audit.yaml", "--baseline", "last", "--json", "first.json", CAVEAT_URL=service)
    assert first.returncode == 0, first.stderr
    assert "No passing audit on the service asks the same question" in first.stderr
    assert "baseline" not in first.stdout

    failing = path.read_text()
    path.write_text(failing.replace("must: matter", "must: not_matter"))
    assert command("gate", "audit.yaml", CAVEAT_URL=service).returncode == 1

    model = onnx.load(tmp_path / "mlp.onnx")
    (weights,) = [one for one in model.graph.initializer if one.name == "w1"]
    weights.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weights), "w1"))
    onnx.save(model, tmp_path / "mlp.onnx")
    path.write_text(failing)
    shown = ("--html", "now.html", "--junit", "now.xml", "--markdown", "now.md")
    now = command("gate", "audit.yaml", "--baseline", "last", *shown, CAVEAT_URL=service)
    assert now.returncode == 0, now.stderr
    assert "Since the baseline the one figure moved beyond noise." in now.stdout
    assert "of the same model" not in now.stdout
    assert re.search(r"^100% uploading mlp.onnx$", now.stderr, re.M), "progress of an upload"
    assert re.search(r"^100% done$", now.stderr, re.M), "and of the audit there"
    report = Report.model_validate_json((tmp_path / "first.json").read_bytes())
    assert re.search(rf"effect of first → agreed at hidden +\+{report.associations[0].effect.in_sd:.3f} +−", now.stdout)
    for name in ("now.html", "now.xml", "now.md"):
        assert "moved beyond noise" in (tmp_path / name).read_text()
    assert digest(report) in (tmp_path / "now.xml").read_text(), "the one that passed, not the newer one that failed"


@pytest.mark.slow
def test_a_first_audit_runs_as_it_is(tmp_path: Path, command: Command, service: str) -> None:
    write_audit(tmp_path)
    assert command("init", "mlp.onnx", "--write", "first.yaml").returncode == 0
    assert command("gate", "first.yaml", CAVEAT_URL=service).returncode == 1


def interrupted(folder: Path, ready: Callable[[subprocess.Popen[str]], None], **environment: str) -> str:
    """What a long audit says when it is stopped by Ctrl-C as soon as it is `ready`."""
    path = write_audit(folder)
    quick, long = "permutations: 199, bootstrap: 99", "permutations: 1000000, bootstrap: 200000"
    path.write_text(path.read_text().replace(quick, long))
    gate = subprocess.Popen(
        [sys.executable, "-m", "caveat", "gate", "audit.yaml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        ready(gate)
    finally:
        gate.send_signal(signal.SIGINT)
        _, said = gate.communicate(timeout=30)
    assert gate.returncode == 130
    return said


@pytest.mark.slow
def test_ctrl_c_ends_the_child_here(tmp_path: Path) -> None:
    parts: list[int] = []

    def ready(gate: subprocess.Popen[str]) -> None:
        assert gate.stderr is not None
        while "%" not in (line := gate.stderr.readline()):
            assert line, "it ended before it began"
        parts.extend(children(gate.pid))

    assert "Stopped." in interrupted(tmp_path, ready)
    assert parts
    assert not any(Path(f"/proc/{part}").exists() for part in parts)


def test_ctrl_c_cancels_the_audit_on_the_service(tmp_path: Path, service: str) -> None:
    with Client(service) as client:

        def long_one() -> AuditRecord | None:
            return next((one for one in client.audits() if one.audit.method.permutations == 1_000_000), None)

        def wait_for(state: str) -> None:
            deadline = time.monotonic() + 30
            while (one := long_one()) is None or one.state != state:
                assert time.monotonic() < deadline, one
                time.sleep(0.1)

        assert "Stopped." in interrupted(tmp_path, lambda _: wait_for("running"), CAVEAT_URL=service)
        wait_for("cancelled")


def test_one_ctrl_c_stops_everything_and_the_data_stay(tmp_path: Path) -> None:
    with started(tmp_path) as (process, url):
        connection = HTTPConnection(url.removeprefix("http://"))
        for path in ("/readyz", "/healthz"):  # on the same connection, which gunicorn by itself closes after 2 seconds
            connection.request("GET", path)
            with connection.getresponse() as answer:
                assert (answer.status, bool(answer.read())) == (200, True)
            time.sleep(2.5)
        connection.close()
        state = json.loads((tmp_path / ".caveat" / "up.json").read_text())
        assert state == {"url": url, "pid": process.pid}
        logs = {log.name for log in (tmp_path / ".caveat" / "logs").iterdir()}
        assert logs == {"valkey.log", "worker.log", "api.log"}
        parts = children(process.pid)
        assert len(parts) == 3
        second = subprocess.run(
            [sys.executable, "-m", "caveat", "up", "--port", "0"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 3
        assert f"is already running at {url}" in second.stderr.replace("\n", " ")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not any(Path(f"/proc/{part}").exists() for part in parts)
    assert not (tmp_path / ".caveat" / "up.json").exists()
    assert (tmp_path / ".caveat" / "caveat.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 1, 2], ids=["valkey", "worker", "api"])
def test_where_a_part_dies_everything_stops_and_says_so(tmp_path: Path, part: int) -> None:
    with started(tmp_path) as (process, _):
        parts = children(process.pid)
        os.kill(parts[part], signal.SIGKILL)
        assert process.wait(30) == 3
        assert process.stdout is not None
        assert "stopped unexpectedly" in process.stdout.read()
    assert not any(Path(f"/proc/{part}").exists() for part in parts)


def test_a_port_that_is_taken_is_named(tmp_path: Path, command: Command, service: str) -> None:
    port = service.rpartition(":")[2]
    taken = command("up", "--port", port)
    assert taken.returncode == 3
    assert f"Port {port} on 127.0.0.1 is not available" in taken.stderr


@pytest.mark.slow
def test_explanations_come_from_either_and_are_the_same_bytes(tmp_path: Path, command: Command, service: str) -> None:
    path = write_audit(tmp_path)
    path.write_text(path.read_text() + "explain: {why: {of: yes, show: [gradient_x_input, saliency]}}\n")
    here = command("explain", "audit.yaml", "--json", "here.json")
    there = command("explain", "audit.yaml", "--json", "there.json", CAVEAT_URL=service)
    assert (here.returncode, there.returncode) == (0, 0), (here, there)
    assert here.stdout.startswith("why: Of 80 examples of pool, the 3 examples of which yes is highest.")
    assert here.stdout == there.stdout
    assert (tmp_path / "here.json").read_bytes() == (tmp_path / "there.json").read_bytes()
