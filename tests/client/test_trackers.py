"""A report is logged to an experiment tracker: what is logged, where, and what becomes of the exit code without it."""

# ruff: noqa: F811 - fixtures of another package
from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfile
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from caveat import installation
from caveat.problems import ProblemError
from caveat.result import AuditResult
from caveat.trackers import TRACKERS
from caveat.trackers.log_report import log_report, without_credentials
from caveat.trackers.run_record import LONGEST_NAME, RunRecord, run_record
from caveat_reports.canonical import canonical, digest
from caveat_spec.report import Report
from tests.client.conftest import Command
from tests.client.models import write_audit
from tests.client.test_gate import FAILING, LINE, OPEN, PASSING, invoke, written
from tests.needed import package
from tests.reports.conftest import groups_only, hostile, watermark  # noqa: F401 - fixtures

NOBODY = "http://somebody:secret@127.0.0.1:9"
"""A server that is not there, with a password."""


def record_of(report: Report, **beside: Any) -> RunRecord:
    return run_record(report, canonical(report), **beside)


def test_the_verdict_and_the_digests_are_tags(watermark: Report) -> None:
    found = record_of(watermark, seconds=12.5)
    assert found.tags["caveat.verdict"] == "fail"
    assert found.tags["caveat.model"] == watermark.audit.model
    assert found.tags["caveat.report"] == digest(watermark)
    assert re.fullmatch("sha256:[0-9a-f]{64}", found.tags["caveat.audit"])
    assert found.metrics["caveat_audit_seconds"] == 12.5
    assert found.contents["report.json"] == canonical(watermark)
    assert found.description.startswith("Fails: ")
    assert all(line.subject in found.description for line in watermark.verdict.lines)


def test_every_effect_has_its_interval(watermark: Report) -> None:
    metrics = record_of(watermark).metrics
    for test in watermark.associations:
        name = f"{test.concept}/{test.target}/{test.place.strip('/').replace('/', '_')}"
        assert metrics[f"caveat_effect_sd/{name}"] == test.effect.in_sd
        assert metrics[f"caveat_effect_sd_low/{name}"] == test.effect.interval_in_sd[0]
        assert metrics[f"caveat_effect_sd_high/{name}"] == test.effect.interval_in_sd[1]
    for test in watermark.interventions:
        name = f"{test.concept}/{test.target}"
        assert metrics[f"caveat_intervention_sd_low/{name}"] == test.effect.interval_in_sd[0]


def test_group_metrics_have_theirs(groups_only: Report) -> None:
    metrics = record_of(groups_only).metrics
    for group in groups_only.comparisons:
        for name, estimate in group.metrics.items():
            assert metrics[f"caveat_group_metric/{group.name}/{name}"] == estimate.value
            assert metrics[f"caveat_group_metric_high/{group.name}/{name}"] == estimate.interval[1]
    assert sum(name.startswith("caveat_group_people/") for name in metrics) == sum(
        len(group.rows) for group in groups_only.comparisons
    )


def test_files_of_one_name_do_not_replace_each_other(watermark: Report, tmp_path: Path) -> None:
    written = {"json": tmp_path / "a.json", "junit": tmp_path / "x" / "out", "sarif": tmp_path / "out"}
    found = record_of(watermark, written=written | {"attestation": tmp_path / "report.json"})
    assert sorted(found.files) == ["out", "out-2", "report.json-2"]


def test_names_are_those_that_every_tracker_takes(hostile: Report) -> None:
    names = list(record_of(hostile).metrics)
    assert len(names) > 3
    for name in names:
        assert re.fullmatch(r"[\w.\- /]+", name)
        assert len(name) <= LONGEST_NAME + 4
        assert not {"", ".", ".."} & set(name.split("/"))


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        ("at http://u:p@host/x and https://host", "at http://host/x and https://host"),
        ("postgresql://user:pa@ss@db/mlflow", "postgresql://db/mlflow"),
        ("mail@host", "mail@host"),
    ],
)
def test_no_password_is_shown(words: str, plain: str) -> None:
    assert without_credentials(words) == plain


def test_an_unknown_tracker_is_refused(tmp_path: Path, watermark: Report) -> None:
    told = invoke("gate", "--report", written(tmp_path, PASSING, LINE), "--log-to", "mlfow")
    assert told.exit_code == 2
    assert "mlflow" in told.output
    with pytest.raises(ProblemError, match=r"'mlfow' is no tracker\. Use one of: mlflow, wandb\."):
        AuditResult(watermark, canonical(watermark)).log_to("mlfow")


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_library_is_named_before_the_audit_runs(
    name: str, audit_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "find_spec", lambda _: None)
    told = invoke("gate", audit_file, "--log-to", name)
    assert told.exit_code == 3
    assert f"needs {name}" in told.output
    assert f"pip install 'caveat[{name}]'" in told.output
    assert "planning" not in told.output


# What follows needs the libraries themselves.


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without a run; to make one takes it seconds."""
    package("mlflow-skinny")
    from caveat.mlflow_library import import_mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    import_mlflow().MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def mlflow(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow with a database of its own, as its settings say."""
    from caveat.mlflow_library import import_mlflow

    mlflow = import_mlflow()
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    copyfile(database, tmp_path / "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "audits")
    yield mlflow
    mlflow.set_tracking_uri(before)


def only_run(mlflow: Any) -> Any:
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    return run


slow = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("trackers")]


class TestMLflow:
    pytestmark = slow

    def test_a_run_has_tags_figures_and_files(self, mlflow: Any, watermark: Report) -> None:
        where = AuditResult(watermark, canonical(watermark)).log_to("mlflow")
        run = only_run(mlflow)
        assert run.info.run_id in where
        assert "experiment 'audits'" in where
        assert run.info.status == "FINISHED"
        expected = record_of(watermark)
        assert run.data.metrics == pytest.approx(expected.metrics)
        assert run.data.tags.items() >= expected.tags.items()
        assert run.data.tags["mlflow.note.content"] == expected.description
        kept = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="caveat/report.json"))
        assert kept.read_bytes() == canonical(watermark)

    def test_hostile_names_are_logged(self, mlflow: Any, hostile: Report) -> None:
        log_report("mlflow", hostile, canonical(hostile))
        assert only_run(mlflow).data.metrics == pytest.approx(record_of(hostile).metrics)

    def test_more_figures_than_one_request_takes(self, mlflow: Any, watermark: Report) -> None:
        test = watermark.associations[0]
        many = [test.model_copy(update={"layer": f"layer{number}"}) for number in range(400)]
        report = watermark.model_copy(update={"tests": many})
        log_report("mlflow", report, canonical(report))
        assert len(only_run(mlflow).data.metrics) > 1200

    def test_an_active_run_is_the_parent_and_goes_on(self, mlflow: Any, watermark: Report) -> None:
        with mlflow.start_run() as training:
            log_report("mlflow", watermark, canonical(watermark))
            assert mlflow.active_run().info.run_id == training.info.run_id
        found = mlflow.search_runs(
            search_all_experiments=True,
            output_format="list",
            filter_string=f"tags.mlflow.parentRunId = '{training.info.run_id}'",
        )
        assert [run.data.tags["caveat.verdict"] for run in found] == ["fail"]
        assert mlflow.get_run(training.info.run_id).data.metrics == {}

    def test_the_run_of_the_environment_is_the_parent_and_is_not_ended(
        self,
        mlflow: Any,
        watermark: Report,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        training = mlflow.MlflowClient().create_run(mlflow.create_experiment("training")).info
        monkeypatch.setenv("MLFLOW_RUN_ID", training.run_id)
        log_report("mlflow", watermark, canonical(watermark))
        assert os.environ["MLFLOW_RUN_ID"] == training.run_id
        assert mlflow.get_run(training.run_id).info.status == "RUNNING"
        (child,) = mlflow.search_runs([training.experiment_id], "tags.caveat.verdict = 'fail'", output_format="list")
        assert child.data.tags["mlflow.parentRunId"] == training.run_id

    def test_a_run_that_breaks_off_is_shown_as_failed(
        self,
        mlflow: Any,
        watermark: Report,
        tmp_path: Path,
    ) -> None:
        with pytest.raises(ProblemError, match=r"The verdict stands, .* \(\[Errno 2\] No such file .*gone'\)"):
            log_report("mlflow", watermark, canonical(watermark), written={"junit": tmp_path / "gone"})
        assert only_run(mlflow).info.status == "FAILED"

    @pytest.mark.parametrize(
        ("setting", "reason"),
        [
            ({"MLFLOW_TRACKING_URI": "nonsense://x"}, "unsupported URI 'nonsense://x'"),
            ({"MLFLOW_EXPERIMENT_ID": "77"}, "`77` does not exist in the tracking server"),
            ({"MLFLOW_RUN_ID": "nothing"}, "Run with id=nothing not found"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
    )
    def test_wrong_settings_are_a_sentence(
        self, command: Command, tmp_path: Path, database: Path, setting: dict[str, str], reason: str
    ) -> None:
        settings = {"MLFLOW_TRACKING_URI": f"sqlite:///{database}"} | setting
        told = command("gate", "--report", written(tmp_path, PASSING, LINE), "--log-to", "mlflow", **settings)
        assert told.returncode == 3
        assert "Error: The verdict stands, but it could not be logged to MLflow (" in told.stderr
        assert reason in told.stderr
        assert "Traceback" not in told.stderr

    @pytest.mark.parametrize(("row", "code"), [(PASSING, 3), (FAILING, 1), (OPEN, 4)])
    def test_a_server_that_is_not_there_turns_a_pass_into_3_and_nothing_else(
        self, command: Command, tmp_path: Path, row: Any, code: int
    ) -> None:
        package("mlflow-skinny")
        settings = {"MLFLOW_TRACKING_URI": NOBODY, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        told = command("gate", "--report", written(tmp_path, row, LINE), "--log-to", "mlflow", **settings)
        assert told.returncode == code
        assert "(http://127.0.0.1:9 does not answer)" in told.stderr
        assert "secret" not in told.stdout + told.stderr


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A tracking server of MLflow, as a team runs one; its URL."""
    package("mlflow-skinny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
    stores = ("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", folder / "files")
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *stores, "--workers", "1", "--port", str(port)],
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            try:
                urlopen(f"{url}/health", timeout=5)
                break
            except (URLError, OSError):
                assert running.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(running.pid, 15)
        running.wait(30)


@pytest.mark.slow
@pytest.mark.xdist_group("trackers")
@pytest.mark.filterwarnings("ignore")
def test_a_gate_logs_over_http(command: Command, tmp_path: Path, server: str) -> None:
    write_audit(tmp_path)
    settings = {"MLFLOW_TRACKING_URI": server, "MLFLOW_EXPERIMENT_NAME": "gates"}
    done = command("gate", "audit.yaml", "--junit", "gate.xml", "--json", "r.json", "--log-to", "mlflow", **settings)
    assert done.returncode == 1, done.stderr
    found = re.search(rf"^Logged to MLflow, run (\w+) of the experiment 'gates' at {server}\.$", done.stderr, re.M)
    assert found is not None, done.stderr
    from caveat.mlflow_library import import_mlflow

    client = import_mlflow().MlflowClient(server)
    run = client.get_run(found[1])
    report = Report.model_validate_json((tmp_path / "r.json").read_bytes())
    assert run.data.tags["caveat.report"] == digest(report)
    assert run.data.metrics["caveat_audit_seconds"] > 0
    assert run.data.metrics["caveat_effect_sd/first/yes/hidden"] == report.tests[0].effect.in_sd
    names = {file.path for file in client.list_artifacts(found[1], "caveat")}
    assert names == {"caveat/report.json", "caveat/report.html", "caveat/gate.xml"}


def records(path: Path) -> Iterator[Any]:
    """What a run of Weights & Biases kept: protocol buffers in a log as LevelDB writes it, after seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content, at, whole, block = path.read_bytes(), 7, b"", 32768
    while at < len(content):
        room = block - at % block
        if room < 7:
            at += room
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:  # whole, or the last part of several
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


class TestWeightsAndBiases:
    pytestmark = slow

    def test_a_run_is_kept_for_wandb_sync(self, command: Command, tmp_path: Path, watermark: Report) -> None:
        package("wandb")
        (tmp_path / "report.json").write_bytes(canonical(watermark))
        beside = ("--json", "decided.json")
        done = command("gate", "--report", "report.json", *beside, "--log-to", "wandb", WANDB_MODE="offline")
        assert done.returncode == 1, done.stderr
        decided = Report.model_validate_json((tmp_path / "decided.json").read_bytes())
        (kept,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
        assert f"kept in {kept.parent}: `wandb sync` sends it." in done.stderr
        found = list(records(kept))
        runs = [one.run for one in found if one.HasField("run")]
        assert runs[0].display_name == "Caveat: Fails"
        assert runs[0].job_type == "audit"
        config = {item.key: item.value_json.strip('"') for item in runs[0].config.update}
        assert config.items() >= record_of(decided).tags.items()
        summary = {
            item.key or "/".join(item.nested_key): float(item.value_json)
            for one in found
            if one.HasField("summary")
            for item in one.summary.update
            if (item.key or item.nested_key[0]).startswith("caveat_")
        }
        assert summary == pytest.approx(record_of(decided).metrics)

    @pytest.mark.parametrize(("row", "code"), [(PASSING, 3), (FAILING, 1)])
    def test_without_a_key_the_run_is_not_kept_and_that_is_said(
        self, command: Command, tmp_path: Path, row: Any, code: int
    ) -> None:
        package("wandb")
        alone = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_API_KEY": ""}
        told = command("gate", "--report", written(tmp_path, row, LINE), "--log-to", "wandb", **alone)
        assert told.returncode == code, told.stderr
        assert "could not be logged to Weights & Biases (No API key configured" in told.stderr
        assert "Traceback" not in told.stderr
