"""Layers that are the same at every example: by inner products alone, and by the graph where only sizes count."""

from __future__ import annotations

import numpy as np
import pytest

from caveat_worker.engine.activations.array_keys import Array, inner_key
from caveat_worker.engine.activations.constant_layers import examples_differ
from caveat_worker.engine.autodiff.layers import choose_layers, list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from tests.engine.nets import Net

X: Array = ("activations", "concept", "layer")
Y: Array = ("activations", "reference", "layer")
TARGET = Target("first", index=0)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("departure", "expected"), [(0.0, False), (1e-4, True), (1.0, True)])
def test_inner_products_tell_whether_examples_differ(departure: float, expected: bool, turned: bool) -> None:
    rng = np.random.default_rng(0)
    x = np.tile(rng.normal(size=700).astype(np.float32), (5, 1)).astype(float)
    y = np.tile(x[:1], (4, 1))
    y[3] += departure
    keys = {X: "x", Y: "y"}
    between = (inner_key("y", "x"), y @ x.T) if turned else (inner_key("x", "y"), x @ y.T)
    store = dict([(inner_key("x", "x"), x @ x.T), (inner_key("y", "y"), y @ y.T), between])
    assert examples_differ(X, Y, keys, store.get) is expected
    assert examples_differ(X, X, keys, store.get) is False


def test_what_nobody_kept_is_taken_to_vary() -> None:
    assert examples_differ(X, Y, {X: "x", Y: "y"}, lambda key: None) is True


def test_a_layer_that_only_sizes_decide_is_not_chosen() -> None:
    """The first state of a recurrent network: zeros for every example, however many there are."""
    net = Net()
    rows = net.op("Slice", net.op("Shape", "x"), *(net.constant([one], np.int64) for one in (0, 1, 0)))
    state = net.op("Expand", net.constant([[0.0]]), net.op("Concat", rows, net.constant([6], np.int64), axis=0))
    hidden = net.op("Tanh", net.op("Add", net.dense("x", 4, 6), net.op("Tanh", state)))
    model = load(net.model(("n", 4), net.dense(net.op("Relu", net.dense(hidden, 6, 5)), 5, 3)))
    reasons = {layer.tensor: layer.reason for layer in list_layers(model, TARGET)}
    assert reasons[state] == "It is the same for every example: it depends on the sizes of the inputs alone."
    assert reasons[hidden] is None
    assert state not in choose_layers(model, TARGET)
