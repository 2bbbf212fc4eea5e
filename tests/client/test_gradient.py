"""`caveat differentiate`: the file it writes is plain ONNX, runs without Caveat, and holds the gradient."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from caveat import local
from caveat.cli import cli
from caveat.gradient import write_gradient
from caveat.problems import ProblemError
from tests.client.models import write_audit


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_audit(tmp_path)
    return tmp_path / "mlp.onnx"


def test_the_file_is_plain_onnx_that_any_runtime_runs(model: Path) -> None:
    path = model.with_name("gradient.onnx")
    asked = ["differentiate", str(model), "--layer", "hidden", "--layer", "x", "--target", "1", "--target", "1-0"]
    said = CliRunner().invoke(cli, [*asked, "-o", str(path)], catch_exceptions=False)
    assert said.exit_code == 0
    assert "yields  gradient/1-0/hidden  float32 n×6" in said.output
    assert "It agrees with finite differences" in said.output
    onnx.checker.check_model(str(path), full_check=True)
    assert {opset.domain for opset in onnx.load(str(path)).opset_import} == {""}

    weights = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(str(model)).graph.initializer}
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = dict(zip([output.name for output in session.get_outputs()], session.run(None, {"x": x}), strict=True))
    hidden = np.tanh(x @ weights["w1"] + weights["b1"])
    deep = np.tanh(hidden @ weights["w2"] + weights["b2"])
    by_hidden = (1 - deep**2) * weights["w3"][:, 1] @ weights["w2"].T
    np.testing.assert_allclose(got["value/1"], (deep @ weights["w3"])[:, 1], rtol=1e-4)
    np.testing.assert_allclose(got["gradient/1/hidden"], by_hidden, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got["gradient/1/x"], by_hidden * (1 - hidden**2), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got["gradient/1-0/hidden"], 2 * by_hidden, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"layers": ["hiden"], "targets": ["1"]}, "no layer 'hiden'"),
        ({"layers": ["hidden"], "targets": ["2"]}, "asks for class 2"),
        ({"layers": ["hidden"], "targets": []}, "names no class"),
        ({"layers": ["hidden"], "targets": ["one"]}, "'one' is not a target"),
        ({"layers": ["hidden"], "targets": ["1"], "output": "logit"}, "no output 'logit'"),
    ],
)
def test_what_cannot_be_meant_is_told_in_words(model: Path, asked: dict[str, object], words: str) -> None:
    with pytest.raises(ProblemError, match=words) as caught:
        write_gradient(model, path=model.with_name("g.onnx"), **asked)
    assert caught.value.exit_code == 2
    assert caught.value.problem.remedy
    assert not model.with_name("g.onnx").exists()


def test_a_path_that_cannot_be_written(model: Path) -> None:
    with pytest.raises(ProblemError, match="cannot be written"):
        write_gradient(model, ["hidden"], ["1"], model / "gradient.onnx")


def test_the_client_alone_says_what_to_install(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(local, "find_spec", absent)
    with pytest.raises(ProblemError, match=r"caveat\[worker\]"):
        write_gradient(model, ["hidden"], ["1"], model.with_name("g.onnx"))
