"""`caveat differentiate`: the file it writes is plain ONNX, runs without Caveat, and holds the gradient."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from caveat import installation
from caveat.cli import cli
from caveat.gradient import write_gradient
from caveat.problems import ProblemError
from caveat_spec.artifacts import Inspection
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

    monkeypatch.setattr(installation, "find_spec", absent)
    with pytest.raises(ProblemError, match=r"caveat\[local\]"):
        write_gradient(model, ["hidden"], ["1"], model.with_name("g.onnx"))


@pytest.fixture
def scaled(model: Path) -> Path:
    """The model with an input `rate` that multiplies its answer and that no example has."""
    proto = onnx.load(model)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("rate", onnx.TensorProto.FLOAT, []))
    proto.graph.node[-1].output[0] = "unscaled"
    proto.graph.node.append(onnx.helper.make_node("Mul", ["unscaled", "rate"], ["logits"]))
    onnx.save(proto, model)
    return model


def run(*arguments: str) -> str:
    """What a command prints that ends well."""
    said = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert said.exit_code == 0, said.output
    return said.output


def test_a_constant_input_is_no_input_of_the_gradient(model: Path, scaled: Path) -> None:
    gradients = {}
    for rate in ("1", "3"):
        path = model.with_name("gradient.onnx")
        asked = ["--layer", "hidden", "--target", "1", "--constant", f"rate={rate}", "-o", str(path)]
        run("differentiate", str(scaled), *asked)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert [one.name for one in session.get_inputs()] == ["x"]
        x = np.ones((2, 6), np.float32)
        gradients[rate] = session.run(["gradient/1/hidden"], {"x": x})[0]
    np.testing.assert_allclose(gradients["3"], 3 * gradients["1"], rtol=1e-5)


def test_layers_of_a_model_with_a_constant_input(scaled: Path) -> None:
    seen = Inspection.model_validate_json(run("layers", str(scaled), "--local", "--constant", "rate=2", "--json"))
    assert [one.name for one in seen.inputs] == ["x"]
    assert "hidden" in [layer.tensor for layer in seen.layers if layer.auditable]


@pytest.mark.parametrize("command", [["layers", "--local"], ["differentiate", "--layer", "hidden", "--target", "1"]])
@pytest.mark.parametrize(
    ("constant", "words"),
    [
        ("rate", "'rate' is not NAME=NUMBER, such as sr=16000"),
        ("rate=fast", "'rate=fast' is not NAME=NUMBER"),
        ("speed=2", "no input 'speed' to hold constant"),
    ],
)
def test_what_is_no_constant_is_told(scaled: Path, command: list[str], constant: str, words: str) -> None:
    said = CliRunner().invoke(cli, [command[0], str(scaled), *command[1:], "--constant", constant])
    assert said.exit_code == 2
    assert words in " ".join(said.output.split())
