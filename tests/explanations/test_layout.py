"""Where a tensor's channels are is found in the graph: signals, texts and pictures look alike by their sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caveat_worker.engine.autodiff.channels import channel_axis
from caveat_worker.engine.explanations import explanation
from caveat_worker.engine.explanations.runs import INPUT
from tests.engine.nets import Net
from tests.engine.ordinary import Ordinary
from tests.explanations.models import opened
from tests.explanations.networks import FAMILIES, middle

LENGTH, CHANNELS = 20, 3


def signals(length: int = LENGTH, *, last: bool = False) -> tuple[bytes, str]:
    """A network over signals [n, channels, length], or [n, length, channels]; returns it with a layer inside."""
    net = Net(5)
    x = net.op("Transpose", "x", perm=[0, 2, 1]) if last else "x"
    weights = net.weight(6, CHANNELS, 3)
    layer = net.op("Relu", net.op("Conv", x, weights, net.weight(6), pads=[1, 1]))
    scores = net.dense(net.op("Flatten", net.op("GlobalAveragePool", layer)), 6, 3)
    return net.model(("n", length, CHANNELS) if last else ("n", CHANNELS, length), scores), layer


def pictures_with_colours_last() -> tuple[bytes, str]:
    """A network over pictures [n, 6, 5, 7], whose seven bands are last and do not look like colours."""
    net = Net(6)
    x = net.op("Transpose", "x", perm=[0, 3, 1, 2])
    layer = net.op("Relu", net.op("Conv", x, net.weight(4, 7, 3, 3), pads=[1, 1, 1, 1]))
    return net.model(("n", 6, 5, 7), net.dense(net.op("Flatten", net.op("GlobalMaxPool", layer)), 4, 3)), layer


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_a_signal_has_one_number_for_each_place_in_time(last: bool) -> None:
    model, layer = signals(last=last)
    x = np.random.default_rng(0).standard_normal((1, CHANNELS, LENGTH)).astype(np.float32)
    runs, seen = opened(model).around({"x": x.transpose(0, 2, 1) if last else x})
    assert seen.shape == (1, LENGTH, CHANNELS)
    assert np.array_equal(seen[0].T, x[0])
    products = x[0] * runs.gradient(seen)[0].T
    found = explanation("gradient_x_input").run(runs, seen, explanation("gradient_x_input").entry.options())
    assert found.values[0] == pytest.approx(products.sum(0), abs=1e-6)
    linear = explanation("linear")
    for atoms, count in (("positions", LENGTH), ("channels", 6)):
        parts = linear.run(runs, seen, linear.entry.options(layer=layer, atoms=atoms))
        assert parts.values.shape == (1, count)
        assert parts.withheld is None


def test_a_signal_s_gradient_is_that_of_its_scores() -> None:
    model, layer = signals()
    x = np.random.default_rng(1).standard_normal((1, CHANNELS, LENGTH)).astype(np.float32)
    runs, seen = opened(model).around({"x": x})
    gradient, step = runs.gradient(seen)[0], 1e-2
    for place in ((0, 0), (7, 2), (19, 1)):
        up, down = seen.copy(), seen.copy()
        up[(0, *place)] += step
        down[(0, *place)] -= step
        slope = float(runs.scores(up)[0] - runs.scores(down)[0]) / (2 * step)
        assert gradient[place] == pytest.approx(slope, abs=2e-3)
    a = runs.activations(seen, layer)
    assert a.shape == (1, LENGTH, 6)
    assert runs.rest(layer, a, seen) == pytest.approx(runs.scores(seen), abs=1e-6)
    assert runs.rest_gradient(layer, a, seen) == pytest.approx(runs.gradient(seen, layer), abs=1e-6)
    seeds = np.eye(3, dtype=np.float32)[[1]]
    assert runs.pull(runs.scores_at, seeds, layer, seen) == pytest.approx(runs.gradient(seen, layer), abs=1e-6)
    assert runs.pull(layer, a, INPUT, seen).shape == (1, LENGTH, CHANNELS)


@pytest.mark.parametrize(
    "name", ["occlusion", "shapley", "smoothgrad", "integrated_gradients", "deeplift_rescale", "lrp"]
)
def test_every_explanation_of_a_signal_is_along_time(name: str) -> None:
    runs, x = opened(signals()[0]).around(
        {"x": np.random.default_rng(2).standard_normal((1, CHANNELS, LENGTH)).astype("f4")}
    )
    one = explanation(name)
    assert one.run(runs, x, one.entry.options()).values.shape == (1, LENGTH)


def test_bands_that_do_not_look_like_colours_are_found_last() -> None:
    model, layer = pictures_with_colours_last()
    x = np.random.default_rng(0).standard_normal((1, 6, 5, 7)).astype(np.float32)
    runs, seen = opened(model).around({"x": x})
    assert seen.shape == (1, 7, 6, 5)
    one = explanation("occlusion")
    assert one.run(runs, seen, one.entry.options(window=2)).values.shape == (1, 6, 5)
    assert runs.activations(seen, layer).shape == (1, 4, 6, 5)


@pytest.mark.parametrize(("family", "axis"), [("transformer", 2), ("cnn", 1), ("residual", 1)])
def test_layers_of_ordinary_networks_have_the_axis_of_their_operators(family: str, axis: int) -> None:
    one = opened(FAMILIES[family](Ordinary(0)))
    runs: Any = one.around({one.model.inputs[0].name: np.zeros([1, *map(int, one.model.inputs[0].shape[1:])], "f4")})[0]
    assert channel_axis(one.model, middle(runs)) == axis


@pytest.mark.parametrize("kept", ["DequantizeLinear", "Cast", "Transpose"])
def test_a_product_with_a_weight_that_is_kept_in_another_form_tells(kept: str) -> None:
    net, size = Net(8), 260  # 67,600 weights: loading a model leaves constants of that size as they are kept
    weight = net.constant(net.rng.integers(-9, 9, (size, size)), np.int8)
    if kept == "DequantizeLinear":
        weight = net.op(kept, weight, net.constant(0.1))
    else:  # as MiniLM is kept, whose int8 weights are multiplied by a scale for each column
        turned = net.op(kept, weight) if kept == "Transpose" else weight
        weight = net.op("Mul", net.op("Cast", turned, to=1), net.constant(np.full((1, size), 0.1)))
    layer = net.op("MatMul", "x", weight)
    rows = net.op("ReduceMax", net.op("Relu", layer), net.constant([2], np.int64), keepdims=0)
    model = opened(net.model(("n", 3, size), net.dense(rows, 3, 2))).model
    assert next(node for node in model.ir.graph if node.op_type == "MatMul").inputs[1].producer() is not None
    assert channel_axis(model, layer) == 2
    assert channel_axis(model, "x") == 2


def test_a_product_of_two_tensors_of_the_example_says_nothing() -> None:
    net = Net(9)
    rows = net.op(
        "ReduceMax",
        net.op(
            "MatMul",
            "x",
            net.op(
                "Squeeze",
                net.op("Slice", "x", *(net.constant([one], np.int64) for one in (0, 1, 0))),
                net.constant([0], np.int64),
            ),
        ),
        net.constant([2], np.int64),
        keepdims=0,
    )
    assert channel_axis(opened(net.model((1, 5, 5), net.dense(rows, 5, 2))).model, "x") is None


def test_what_no_operator_says_is_not_known() -> None:
    net = Net(7)
    model = net.model(("n", 4, 5), net.dense(net.op("Flatten", net.op("Relu", "x")), 20, 2))
    assert channel_axis(opened(model).model, "x") is None
