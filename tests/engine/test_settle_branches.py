"""Branches that the length of the examples decides are settled once it is known, and gradients pass."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from caveat_worker.engine.autodiff.layers import choose_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.opaque import obstacle
from caveat_worker.engine.autodiff.settle_branches import settle_branches
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.onnx.session import open_session

SQUEEZES_ONE = """<ir_version: 10, opset_import: ["": 18]>
g (float[batch, length] x) => (float[batch, 1] answer) <int64[1] last = {1}, int64[1] one = {1}> {
    hidden = Tanh(x)
    shape = Shape(hidden)
    length = Gather(shape, last)
    is_one = Equal(length, one)
    kept = If(is_one) <
        then_branch = then_graph () => (float[n] short) { short = Squeeze(hidden, last) },
        else_branch = else_graph () => (float[n, m] long) { long = Exp(hidden) }
    >
    total = ReduceMean<keepdims = 0>(kept, last)
    answer = Unsqueeze(total, last)
}"""
TARGET = Target("t", "answer", 0)


@pytest.fixture
def model():
    return load(onnx.parser.parse_model(SQUEEZES_ONE).SerializeToString())


def test_a_branch_of_unknown_rank_stops_the_gradient(model) -> None:
    assert choose_layers(model, TARGET) == ()
    assert "the rank of tensor 'kept' is not known" in (obstacle(model, TARGET) or "")


def test_the_length_of_the_examples_settles_it(model) -> None:
    settled = settle_branches(model, {"x": (5,)})
    assert all(node.op_type != "If" for node in settled.ir.graph)
    assert choose_layers(settled, TARGET) == ("hidden",)
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    (answer,) = open_session(Graph(settled.ir), threads=1).run({"x": x}).values()
    np.testing.assert_allclose(answer, np.exp(np.tanh(x)).mean(1, keepdims=True), rtol=1e-5)


def test_sizes_that_differ_between_sets_settle_nothing(model) -> None:
    assert choose_layers(settle_branches(model, {}), TARGET) == ()
