"""`caveat edit` and `caveat monitor`: files that plain ONNX Runtime runs, and reports of what they do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from prometheus_client import REGISTRY, generate_latest

import caveat
from caveat.auditfile import read_audit
from caveat.cli import cli
from caveat.editing import Change, EditedFile, MonitorFile, write_edit
from caveat.pack import digest
from caveat.problems import ProblemError
from caveat.terminal import show_monitor
from caveat_spec.artifacts import WatchCheck
from caveat_spec.report import Report
from caveat_worker.engine.onnx.graph import TensorInfo
from tests.client.conftest import ROOT
from tests.client.models import write_audit
from tests.client.test_external_data import split


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    path = write_audit(tmp_path)
    path.write_text(path.read_text().replace("seed: 3", "seed: 3, min_examples: 10"))
    return path


def run(*asked: object) -> Result:
    return CliRunner().invoke(cli, [str(one) for one in asked], catch_exceptions=False)


def edit(audit: Path, *more: object) -> Result:
    return run("edit", audit, "--layer", "hidden", "-o", audit.parent / "out" / "edited.onnx", *more)


def outputs(model: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, {"x": x}), strict=True))


def test_a_planted_concept_is_taken_out_and_both_audits_are_signed(audit: Path) -> None:
    run("keygen", audit.parent / "own")
    reports = audit.parent / "reports"
    said = edit(audit, "--concept", "first", "--reports", reports, "--sign-key", audit.parent / "own.key")
    before, after = (
        Report.model_validate_json((reports / f"{name}.json").read_bytes()) for name in ("before", "after")
    )
    assert before.verdict.outcome == "fail", said.output
    assert after.verdict.outcome != "fail", said.output
    assert abs(after.tests[0].effect.in_sd) < abs(before.tests[0].effect.in_sd) / 2
    assert "can fool the audit" in said.output
    assert {one.half for report in (before, after) for one in report.audit.examples.values()} == {"second"}
    assert after.audit.model == digest(audit.parent / "out" / "edited.onnx")
    assert after.versions[0].model == before.audit.model
    for name, model in (("before", audit.parent / "mlp.onnx"), ("after", audit.parent / "out" / "edited.onnx")):
        checked = run(
            "verify", reports / f"{name}.dsse.json", "--key", audit.parent / "own.pub",
            "--report", reports / f"{name}.json", "--model", model,
        )  # fmt: skip
        assert checked.exit_code == 0, checked.output
    page = (reports / "after.html").read_text()
    assert "Beside the model before the edit" in page
    assert "can fool the audit" in page


def write(audit: Path, change: Change) -> EditedFile:
    path = audit.parent / "out" / "edited.onnx"
    return write_edit(read_audit(audit), change, path, lambda stage, share: None)


def test_a_scale_of_one_gives_the_same_bytes(audit: Path) -> None:
    assert write(audit, Change("hidden", concepts=["first"], scale=1)).unchanged
    assert (audit.parent / "out" / "edited.onnx").read_bytes() == (audit.parent / "mlp.onnx").read_bytes()


def test_external_data_goes_with_the_edited_model(audit: Path) -> None:
    x = np.load(audit.parent / "pool.npy")
    write(audit, Change("hidden", channels=[0]))
    whole = outputs(audit.parent / "out" / "edited.onnx", x)["logits"]
    split(audit.parent / "mlp.onnx")
    write(audit, Change("hidden", channels=[0]))
    assert (audit.parent / "out" / "mlp.onnx.data").read_bytes() == (audit.parent / "mlp.onnx.data").read_bytes()
    np.testing.assert_array_equal(outputs(audit.parent / "out" / "edited.onnx", x)["logits"], whole)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "of concepts or of channels"),
        (("--concept", "second"), "declares no concept 'second'"),
        (("--concept", "first", "--scale", "-1"), "not from 0 to 10"),
        (("--channel", "6"), "no channel 6"),
        (("--concept", "first", "--layer", "hiden"), "no layer 'hiden'"),
        (("--concept", "first", "-o", "mlp.onnx"), "would replace the model"),
        (("--concept", "first", "--layer", "hidden@mean"), "no positions to reduce"),
    ],
)
def test_what_cannot_be_edited_is_a_sentence(
    audit: Path, more: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(audit.parent)
    said = edit(audit, *more)
    assert said.exit_code == 2, said.output
    assert words in " ".join(said.output.split())
    assert not (audit.parent / "out").exists()


def test_a_monitor_gives_the_audits_own_numbers_in_plain_onnx_runtime(
    audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, report = audit.parent / "monitored.onnx", audit.parent / "report.json"
    said = run("monitor", audit, "-o", path)
    assert said.exit_code == 0, said.output
    assert "its numbers are the audit's own" in said.output
    run("gate", audit, "--json", report)
    onnx.checker.check_model(str(path), full_check=True)
    assert {one.domain for one in onnx.load(str(path)).opset_import} == {""}
    x = np.load(audit.parent / "pool.npy")
    found = outputs(path, x)
    np.testing.assert_array_equal(found["logits"], outputs(audit.parent / "mlp.onnx", x)["logits"])
    told = Report.model_validate_json(report.read_bytes())
    np.testing.assert_allclose(found["sensitivity/first/yes/hidden"], told.tests[0].changes, rtol=1e-3, atol=1e-5)
    ranked = [*told.rankings[0].most, *told.rankings[0].least]
    scores = [found["concept/first/hidden"][one.position] for one in ranked]
    np.testing.assert_allclose(scores, [one.projection for one in ranked], rtol=1e-4, atol=1e-5)
    monkeypatch.chdir(audit.parent)
    recipe = (ROOT / "docs/how-to/watch-concepts.md").read_text().split("```python\n")[1].split("```")[0]
    served: dict[str, Any] = {"__name__": "recipe"}
    exec(recipe, served)
    np.testing.assert_array_equal(served["answer"]({"x": x})["logits"], found["logits"])
    told_by_prometheus = generate_latest(served["SCORE"]).decode()
    assert f'model_concept_score_count{{concept="first",layer="hidden"}} {float(len(x))}' in told_by_prometheus
    REGISTRY.unregister(served["SCORE"])
    REGISTRY.unregister(served["SENSITIVITY"])


def test_sensitivities_of_a_monitor_do_without_the_scores_of_other_classes(audit: Path) -> None:
    path = audit.parent / "monitored.onnx"
    assert run("monitor", audit, "-o", path).exit_code == 0
    assert not [node for node in onnx.load(str(path)).graph.node if "logits" in node.input]


def test_a_monitor_of_scores_alone_has_no_backward_pass(audit: Path) -> None:
    whole, scores = audit.parent / "monitored.onnx", audit.parent / "scores.onnx"
    assert run("monitor", audit, "-o", whole).exit_code == 0
    said = run("monitor", audit, "-o", scores, "--scores-only")
    assert said.exit_code == 0, said.output
    assert "scores to" in said.output
    assert "sensitivit" not in said.output
    x = np.load(audit.parent / "pool.npy")
    found, every = outputs(scores, x), outputs(whole, x)
    assert set(every) - set(found) == {"sensitivity/first/yes/hidden"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, every[name])
    beside = len(onnx.load(str(audit.parent / "mlp.onnx")).graph.node)
    assert len(onnx.load(str(scores)).graph.node) - beside <= 5  # along the direction, and in its units


def test_a_monitor_of_no_concept_is_a_sentence(audit: Path) -> None:
    value = {
        "model": "mlp.onnx",
        "examples": {"pool": {"arrays": "pool.npy"}},
        "targets": {"yes": {"index": 1, "examples": "pool"}},
        "compare": {"same": {"model": "mlp.onnx"}},
    }
    path = audit.with_name("bare.json")
    path.write_text(json.dumps(value))
    said = run("monitor", path, "-o", audit.parent / "m.onnx")
    assert said.exit_code == 2
    assert "no concept to watch" in said.output


@pytest.mark.slow
def test_both_audits_are_of_the_layers_that_auto_picked_before(audit: Path) -> None:
    audit.write_text(re.sub(r"layers: .*", "layers: auto", audit.read_text()))
    reports = audit.parent / "reports"
    said = edit(audit, "--concept", "first", "--reports", reports)
    before, after = (
        Report.model_validate_json((reports / f"{name}.json").read_bytes()) for name in ("before", "after")
    )
    assert [one.tensor for one in after.plan.layers] == [one.tensor for one in before.plan.layers] != []
    assert "has no tensor" not in said.output


def test_from_python(audit: Path) -> None:
    pool, leaning = (np.load(audit.parent / f"{name}.npy") for name in ("pool", "leaning"))
    asked = {
        "examples": {"pool": pool, "leaning": leaning},
        "concepts": {"first": {"examples": "leaning", "against": "pool"}},
        "targets": {"yes": {"index": 1, "examples": "pool"}},
        "layers": ["hidden"],
        "method": {"runs": 10, "permutations": 99, "bootstrap": 99, "min_examples": 10},
    }
    model = audit.parent / "mlp.onnx"
    result = caveat.edit(model, layer="hidden", concept="first", write=audit.parent / "e.onnx", **asked)
    assert result.path.is_file()
    assert abs(result.after.report.tests[0].effect.in_sd) < abs(result.before.report.tests[0].effect.in_sd)
    written = caveat.monitor(model, write=audit.parent / "m.onnx", **asked)
    assert written.check.score_error < 1e-4
    with pytest.raises(ProblemError, match="declares no concept"):
        caveat.edit(model, layer="hidden", concept="none", write=audit.parent / "n.onnx", **asked)


def test_a_monitor_reads_texts_as_the_other_commands_name_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """NumPy calls an array of texts one of objects."""
    path = tmp_path / "monitored.onnx"
    path.write_bytes(b"x")
    city = TensorInfo("city", (None, 1), "object")
    check = WatchCheck(examples=3, score_error=0.0, sensitivity_error=0.0)
    show_monitor(MonitorFile(path, [city], [city], check, [], scores_only=True))
    assert "reads   city  string ?×1" in capsys.readouterr().out
