"""Layers that are reduced over positions: which axis the channels are is the graph's to say, not the shape's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from caveat_worker.engine.acting.monitor import Watched, monitoring_graph, score_name, sensitivity_name
from caveat_worker.engine.activations.pooling import moved, reduced, reduced_gradient
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.onnx.session import open_session
from tests.audits.conftest import Bench
from tests.engine.nets import Net

Array = NDArray[Any]
FEATURES = 6
CLASSES = 3


@dataclass(frozen=True)
class Planted:
    """A network whose scores are affine in the mean of a layer over its positions."""

    model: bytes
    layer: str
    shape: tuple[int, ...]
    """Of an input."""
    channels: int
    """The layer's true axis of channels."""
    head: str
    """The matrix of the scores [classes, features]."""


def _ending(net: Net, layer: str, shape: tuple[int, ...], channels: int, rank: int) -> Planted:
    positions = net.constant([axis for axis in range(1, rank) if axis != channels], np.int64)
    pooled = net.op("ReduceMean", layer, positions, keepdims=0)
    head = net.weight(CLASSES, FEATURES)
    scores = net.op("Gemm", pooled, head, net.weight(CLASSES), transB=1)
    return Planted(net.model(("n", *shape), scores), layer, shape, channels, head)


def signal() -> Planted:
    """Conv1d over [n, channels, length]."""
    net = Net(3)
    layer = net.op("Tanh", net.op("Conv", "x", net.weight(FEATURES, 4, 3), net.weight(FEATURES), pads=[1, 1]))
    return _ending(net, layer, (4, 9), 1, 3)


def transformer() -> Planted:
    """A dense layer and a normalisation over [n, tokens, features]."""
    net = Net(4)
    dense = net.op("MatMul", "x", net.weight(4, FEATURES))
    scale, bias = net.weight(FEATURES), net.weight(FEATURES)
    return _ending(net, net.op("Tanh", net.op("LayerNormalization", dense, scale, bias)), (9, 4), 2, 3)


def channels_last() -> Planted:
    """A dense layer at every pixel of [n, height, width, channels], as between ConvNeXt's convolutions."""
    net = Net(5)
    seen = net.op("Transpose", net.op("Conv", "x", net.weight(4, 3, 3, 3)), perm=[0, 2, 3, 1])
    return _ending(net, net.op("Tanh", net.op("MatMul", seen, net.weight(4, FEATURES))), (3, 6, 7), 3, 4)


def untold() -> Planted:
    """No operator that says which axis is which."""
    net = Net(6)
    return _ending(net, net.op("Tanh", "x"), (9, FEATURES), 2, 3)


def audited(folder: Path, net: Planted, *layers: str) -> Bench:
    """An audit of one concept at some layers of a network."""
    rng = np.random.default_rng(7)
    (folder / "model.onnx").write_bytes(net.model)
    document = {
        "model": "model.onnx",
        "examples": {name: {"arrays": f"{name}.npy"} for name in ("base", "marked", "targets")},
        "concepts": {"mark": {"examples": "marked", "against": "base"}},
        "targets": {"first": {"index": 0, "examples": "targets"}},
        "layers": list(layers),
        "method": {"runs": 10, "permutations": 99, "bootstrap": 99, "spatial_map": True},
    }
    bench = Bench(folder, document)
    for name in ("base", "marked", "targets"):
        bench.save(name, rng.normal(size=(30, *net.shape)) + (rng.normal(size=net.shape) if name == "marked" else 0))
    return bench


def activations(bench: Bench, net: Planted, name: str) -> Array:
    """The layer at an example set [n, …, channels], by plain ONNX Runtime."""
    proto = onnx.load_from_string(net.model)
    proto.graph.output.append(helper.make_empty_tensor_value_info(net.layer))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run([net.layer], {"x": np.load(bench.folder / f"{name}.npy")})
    return np.moveaxis(np.asarray(found, np.float64), net.channels, -1)


def head(net: Planted) -> Array:
    weights = {one.name: numpy_helper.to_array(one) for one in onnx.load_from_string(net.model).graph.initializer}
    return np.asarray(weights[net.head], np.float64)


@pytest.mark.parametrize("build", [signal, transformer, channels_last, untold])
def test_the_effect_at_a_mean_is_that_of_the_mean_over_positions(build: Callable[[], Planted], tmp_path: Path) -> None:
    net = build()
    bench = audited(tmp_path, net, f"{net.layer}@mean", net.layer)
    marked, base = (activations(bench, net, name) for name in ("marked", "base"))
    step = (marked - base).mean(0)
    report = bench.run()
    mean, whole = report.associations
    assert [one.features for one in report.plan.layers] == [FEATURES, step.size]
    positions = tuple(range(step.ndim - 1))
    expected = float(step.mean(positions) @ head(net)[0])
    assert mean.effect.value == pytest.approx(expected, rel=1e-3)
    assert mean.finite_step is not None
    assert mean.finite_step.value == pytest.approx(expected, rel=1e-3)
    assert whole.spatial_map is not None
    assert whole.spatial_map.shape == list(step.shape[:-1])
    at_each = step @ head(net)[0] / (step.size / FEATURES)
    np.testing.assert_allclose(whole.spatial_map.parts, at_each.ravel(), rtol=2e-3, atol=1e-5)
    told = [one for one in report.warnings if "No operator around layer" in one]
    assert len(told) == (1 if build is untold else 0)
    assert all(f"'{net.layer}@mean' takes axis 2 of" in one for one in told)


@pytest.mark.parametrize("build", [signal, transformer])
def test_a_token_is_one_place_in_time(build: Callable[[], Planted], tmp_path: Path) -> None:
    net = build()
    bench = audited(tmp_path, net, f"{net.layer}@token:8")
    step = (activations(bench, net, "marked") - activations(bench, net, "base")).mean(0)
    (row,) = bench.run().associations
    assert row.effect.value == pytest.approx(step[8] @ head(net)[0] / 9, rel=1e-3)
    assert row.finite_step is not None
    assert row.finite_step.value == pytest.approx(step[8] @ head(net)[0] / 9, rel=1e-3)


@pytest.mark.parametrize("build", [signal, transformer, channels_last])
def test_a_monitoring_model_reads_the_same_axis(build: Callable[[], Planted], tmp_path: Path) -> None:
    net = build()
    bench = audited(tmp_path, net, net.layer)
    rng = np.random.default_rng(2)
    v, step = rng.normal(size=FEATURES), 1.5
    one = Watched("mark", f"{net.layer}@mean", net.layer, "mean", v, step, 0.25, 2.0)
    session = open_session(monitoring_graph(load(net.model), [one], [Target("first", index=0)]), threads=1)
    found = session.run({"x": np.load(bench.folder / "targets.npy")})
    a = activations(bench, net, "targets")
    scores = ((a @ v).reshape(len(a), -1).mean(1) - 0.25) / 2
    np.testing.assert_allclose(found[score_name("mark", one.layer)], scores, rtol=1e-4, atol=1e-5)
    sensitivity = found[sensitivity_name("mark", "first", one.layer)]
    np.testing.assert_allclose(sensitivity, np.full(len(a), head(net)[0] @ v * step), rtol=1e-4)


@pytest.mark.parametrize(
    ("reduce", "rank", "channels", "masked"),
    [
        *((reduce, 4, axis, False) for reduce in ("mean", "max") for axis in (1, 3)),
        *(
            (reduce, 3, axis, masked)
            for reduce in ("mean", "max", "token:1", "last")
            for axis in (1, 2)
            for masked in (False, True)
        ),
    ],
)
def test_reductions_their_steps_and_gradients_fit_each_other(
    reduce: str, rank: int, channels: int, masked: bool
) -> None:
    """The gradient of features is the change of the target by a step of them, whatever the axis of channels."""
    rng = np.random.default_rng(1)
    a: Array = rng.normal(size=(5, *[3, 4, 2][: rank - 1]))
    gradient: Array = rng.normal(size=a.shape)
    step: Array = rng.normal(size=(a.shape[channels],))
    at: Array = np.moveaxis(a, channels, -1).reshape(5, -1, len(step))
    marks = np.arange(at.shape[1]) < (np.array([1, 2, 2, 1, 2])[:, None] if masked else at.shape[1])
    marks = np.broadcast_to(marks, at.shape[:2])
    mask = marks if masked else None
    tokens = [example[its] for example, its in zip(at, marks, strict=True)]
    literal: Array = np.stack(
        [
            {"mean": one.mean(0), "max": one.max(0), "last": one[-1]}.get(reduce, example[1])
            for one, example in zip(tokens, at, strict=True)
        ]
    )
    there: Array = moved(a, step, reduce, channels, mask)
    features: list[Array] = [reduced(one, reduce, channels, mask) for one in (a, there)]
    np.testing.assert_allclose(features[0], literal)
    np.testing.assert_allclose(features[1], literal + step)
    if reduce != "max":  # whose step moves every position, and whose gradient is that of the largest alone
        change: Array = (gradient * (there - a)).reshape(5, -1).sum(1)
        found: Array = reduced_gradient(gradient, a, reduce, channels, mask)
        np.testing.assert_allclose(found @ step, change)
