"""`compare`: a permuted copy is the same model, an unrelated one is not, and what does not fit is a sentence."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from caveat_spec.audit import Audit
from caveat_spec.results import VersionComparison
from caveat_worker import pipeline
from caveat_worker.engine.activations.gram import gram
from caveat_worker.engine.autodiff.target import Resolved, Target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.versions import compared as versions
from caveat_worker.engine.versions.alignment import by_channel, debiased_cka, match_channels
from caveat_worker.engine.versions.compared import Examined
from tests.audits.conftest import FEATURES, network


def digest(name: str) -> str:
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def weights_of(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def with_weights(path: Path, weights: dict[str, np.ndarray[Any, Any]], out: Path) -> Path:
    proto = onnx.load(path)
    for one in proto.graph.initializer:
        one.CopyFrom(numpy_helper.from_array(weights[one.name].astype(np.float32), one.name))
    onnx.save(proto, out)
    return out


def compared(folder: Path, other: Path, **fields: Any) -> VersionComparison:
    model = network(folder / "model.onnx")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(120, FEATURES)).astype(np.float32))
    audit = Audit.model_validate(
        {
            "model": digest("model"),
            "examples": {"x": {"arrays": digest("x")}},
            "targets": {"yes": {"index": 1, "examples": "x"}},
            "layers": ["hidden1", "hidden2"],
            "compare": {"other": {"model": digest("other"), **fields}},
        }
    )
    files = {digest("model"): model, digest("other"): other, digest("x"): folder / "x.npy"}
    report = pipeline.run(audit, files.__getitem__, lambda stage, share: None, threads=1)
    assert report.verdict.outcome is None
    return report.versions[0]


def permuted(folder: Path) -> Path:
    """The same model, the units of both layers in another order and the second scaled by its reader's inverse."""
    model = network(folder / "source.onnx")
    weights, rng = weights_of(model), np.random.default_rng(3)
    first, second = (rng.permutation(weights[name].shape[1]) for name in ("w1", "w2"))
    weights["w1"] = weights["w1"][:, first]
    weights["w2"] = weights["w2"][first][:, second]
    weights["w3"] = weights["w3"][second]
    return with_weights(model, weights, folder / "permuted.onnx")


def test_a_permuted_copy_is_matched_channel_by_channel(tmp_path: Path) -> None:
    found = compared(tmp_path, permuted(tmp_path))
    assert [one.layer for one in found.layers] == ["hidden1", "hidden2"]
    for layer in found.layers:
        assert layer.matched == 1.0
        assert layer.median_correlation == pytest.approx(1)
        assert layer.cka == pytest.approx(1, abs=1e-5)
    (agreement,) = found.agreements
    assert agreement.same_decision is not None
    assert agreement.same_decision.value == 1
    assert agreement.typical_change_in_sd < 1e-4


def test_a_model_of_other_weights_decides_and_encodes_otherwise(tmp_path: Path) -> None:
    source = network(tmp_path / "source.onnx")
    rng = np.random.default_rng(9)
    drawn = {name: rng.normal(size=one.shape) for name, one in weights_of(source).items()}
    found = compared(tmp_path, with_weights(source, drawn, tmp_path / "other.onnx"))
    assert found.agreements[0].same_decision is not None
    assert found.agreements[0].same_decision.value < 0.9
    assert all(layer.matched is not None and layer.matched < 0.5 for layer in found.layers)


def test_debiased_cka_is_about_zero_for_unrelated_layers_wherever_the_plain_one_is_not() -> None:
    rng = np.random.default_rng(0)
    debiased, plain = [], []
    for _ in range(20):
        x, y = rng.normal(size=(40, 500)), rng.normal(size=(40, 500))
        k, other = x @ x.T, y @ y.T
        debiased.append(debiased_cka(k, other))
        h = np.eye(40) - 1 / 40
        a, b = h @ k @ h, h @ other @ h
        plain.append((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    assert abs(np.mean([one for one in debiased if one is not None])) < 0.02
    assert np.mean(plain) > 0.9


def test_debiased_cka_is_the_unbiased_estimate_written_out() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 3)), rng.normal(size=(9, 4))

    def hsic(k: Any, other: Any) -> float:
        n, ones = len(k), np.ones(len(k))
        k, other = k - np.diag(np.diag(k)), other - np.diag(np.diag(other))
        parts = np.trace(k @ other) + ones @ k @ ones * (ones @ other @ ones) / (n - 1) / (n - 2)
        return float((parts - 2 / (n - 2) * ones @ k @ other @ ones) / (n * (n - 3)))

    k, other = x @ x.T, y @ y.T
    expected = hsic(k, other) / np.sqrt(hsic(k, k) * hsic(other, other))
    assert debiased_cka(k, other) == pytest.approx(expected, rel=1e-10)
    assert debiased_cka(k[:3, :3], other[:3, :3]) is None


@pytest.mark.parametrize("value", [0.0, 1.3, 1000.0])
def test_a_layer_that_never_varies_is_like_no_other_wherever_it_lies(value: float) -> None:
    drawn = np.random.default_rng(4).normal(size=(300, 64)).astype(np.float32)
    still = gram(np.full((300, 64), value, np.float32))
    assert debiased_cka(still, still) is None
    assert debiased_cka(still, gram(drawn)) is None
    moved = gram(drawn + np.float32(value))
    assert debiased_cka(moved, gram(drawn)) == pytest.approx(1, abs=1e-4)


def test_channels_are_matched_over_positions_and_dead_ones_left_out() -> None:
    rng = np.random.default_rng(2)
    own = rng.normal(size=(5, 4, 4, 6))
    own[..., 2] = 1.5
    order = rng.permutation(6)
    matching = match_channels(by_channel(own), by_channel(3 * own[..., order] + 1))
    assert matching is not None
    assert (matching.channels, matching.matched) == (5, 1.0)
    assert all(order[its] == mine for mine, its in matching.partners)


def test_accuracy_of_both_stands_beside_each_other_where_a_table_has_labels(tmp_path: Path) -> None:
    model = network(tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, FEATURES)).astype(np.float32)
    (scores,) = onnxruntime.InferenceSession(str(model)).run(None, {"x": x})
    rows = [",".join(map(str, [*row, label])) for row, label in zip(x.tolist(), scores.argmax(1), strict=True)]
    (tmp_path / "x.csv").write_text("\n".join(["a,b,c,d,y", *rows]))
    weights = weights_of(model)
    other = with_weights(model, weights | {"w3": -weights["w3"]}, tmp_path / "other.onnx")
    audit = Audit.model_validate(
        {
            "model": digest("model"),
            "examples": {"x": {"table": digest("x"), "features": ["a", "b", "c", "d"]}},
            "targets": {"yes": {"index": 1, "examples": "x"}},
            "layers": ["hidden1"],
            "compare": {"turned": {"model": digest("other"), "label": "y"}},
        }
    )
    files = {digest("model"): model, digest("other"): other, digest("x"): tmp_path / "x.csv"}
    (found,) = pipeline.run(audit, files.__getitem__, lambda stage, share: None, threads=1).versions
    (agreement,) = found.agreements
    assert agreement.accuracy is not None
    assert agreement.accuracy_other is not None
    assert agreement.same_decision is not None
    figures = agreement.accuracy.value, agreement.accuracy_other.value, agreement.same_decision.value
    assert figures == (1.0, 0.0, 0.0)


def scorer(path: Path, weights: np.ndarray[Any, Any]) -> Path:
    """x → signals [n, 2, 3] by a convolution → sigmoids of one score or several."""
    rng, columns = np.random.default_rng(0), weights.shape[1]
    nodes = [
        helper.make_node("Reshape", ["x", "sizes"], ["line"]),
        helper.make_node("Conv", ["line", "k"], ["signals"], name="conv"),
        helper.make_node("Flatten", ["signals"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["y"]),
    ]
    given = {
        "w": weights.astype(np.float32),
        "k": rng.normal(size=(2, 1, 2)).astype(np.float32),
        "sizes": np.array([-1, 1, FEATURES]),
    }
    graph = helper.make_graph(
        nodes,
        "scorer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", columns])],
        [numpy_helper.from_array(array, name) for name, array in given.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def of_people(folder: Path, model: Path, other: Path, target: dict[str, Any], labels: Any = None) -> VersionComparison:
    """A comparison at rows of a table, whose column `y` has true classes."""
    x = np.random.default_rng(1).normal(size=(60, FEATURES)).astype(np.float32)
    (y,) = onnxruntime.InferenceSession(str(model)).run(None, {"x": x})
    true = np.zeros(len(x), int) if labels is None else labels(y)
    rows = [",".join(map(str, [*row, label])) for row, label in zip(x.tolist(), true, strict=True)]
    (folder / "x.csv").write_text("\n".join(["a,b,c,d,y", *rows]))
    audit = Audit.model_validate(
        {
            "model": digest("model"),
            "examples": {"x": {"table": digest("x"), "features": ["a", "b", "c", "d"]}},
            "targets": {"yes": {"examples": "x", **target}},
            "layers": ["signals"],
            "compare": {"other": {"model": digest("other"), "label": "y", "layers": {"conv": "conv"}}},
        }
    )
    files = {digest("model"): model, digest("other"): other, digest("x"): folder / "x.csv"}
    return pipeline.run(audit, files.__getitem__, lambda stage, share: None, threads=1).versions[0]


def test_each_version_decides_by_its_own_link() -> None:
    """One has a sigmoid behind its score, and of the other only a probability is known, as of a forest."""
    z, target = np.linspace(-2, 2, 9), Target("yes", scale="probability")
    shares = 1 / (1 + np.exp(-z))
    own, its = (
        Examined({"yes": Resolved(target, "y", link, 1, "")}, {"yes": shares}, {"yes": found[:, None]}, {})
        for link, found in (("sigmoid", z), ("probabilities", shares))
    )
    agreement = versions.agreement_of("yes", "x", own, its, (z > 0).astype(int), 0.05)
    assert agreement.same_decision is not None
    assert agreement.accuracy_other is not None
    assert (agreement.same_decision.value, agreement.accuracy_other.value) == (1, 1)


def test_one_of_several_labels_is_right_where_the_class_is_its_own(tmp_path: Path) -> None:
    weights = np.random.default_rng(6).normal(size=(6, 3))
    model = scorer(tmp_path / "own.onnx", weights)
    found = of_people(tmp_path, model, model, {"index": 2}, lambda y: np.where(y[:, 2] > 0.5, 2, 0))
    assert found.agreements[0].accuracy is not None
    assert found.agreements[0].accuracy.value == 1


def test_the_channels_of_a_signal_are_those_of_its_convolution(tmp_path: Path) -> None:
    model = scorer(tmp_path / "own.onnx", np.random.default_rng(6).normal(size=(6, 1)))
    (layer,) = of_people(tmp_path, model, model, {}).layers
    assert (layer.layer, layer.channels, layer.matched) == ("signals", 2, 1.0)


def test_a_large_layer_is_compared_over_fewer_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = scorer(tmp_path / "own.onnx", np.random.default_rng(6).normal(size=(6, 1)))
    monkeypatch.setattr(versions, "LAYER_BYTES", 20 * 6 * 4)
    (layer,) = of_people(tmp_path, model, model, {}).layers
    assert layer.n == 32  # whole batches of 16


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layers": {"hidden1": "hidden9"}}, "no layer 'hidden9'"),
        ({"layers": {"hidden9": "hidden1"}}, "no layer 'hidden9'"),
        ({"label": "y"}, "is not a table"),
    ],
)
def test_what_does_not_fit_is_a_sentence(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        compared(tmp_path, network(tmp_path / "other.onnx"), **fields)


def test_versions_with_other_inputs_are_refused(tmp_path: Path) -> None:
    other = onnx.load(network(tmp_path / "other.onnx"))
    other.graph.input[0].name = "z"
    other.graph.node[0].input[0] = "z"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(InvalidInput, match="takes 'z'"):
        compared(tmp_path, tmp_path / "other.onnx")


def test_versions_whose_inputs_have_another_type_are_refused(tmp_path: Path) -> None:
    other = onnx.load(network(tmp_path / "other.onnx"))
    other.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    other.graph.node[0].input[0] = "narrow"
    other.graph.node.insert(0, helper.make_node("Cast", ["x"], ["narrow"], to=TensorProto.FLOAT))
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(InvalidInput, match=r"of float64; the audited model takes .* of float32"):
        compared(tmp_path, tmp_path / "other.onnx")
