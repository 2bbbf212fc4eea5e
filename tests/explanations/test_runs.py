"""Real runs answer what the interface says: scores, gradients, pulls, rests and biases of an opened model."""

from __future__ import annotations

import numpy as np
import pytest

from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations import explanation, model_runs
from caveat_worker.engine.explanations.runs import GRADIENT, INPUT
from tests.engine.nets import NETS, Net, efficientnet, mlp, resnet, squeezenet
from tests.explanations.models import (
    around_noise,
    biases_made_by_operators,
    columns,
    kinds_of_tokens,
    opened,
    tokens,
)


def differences(runs, x, step=1e-2):
    """∂S/∂x along random directions, by central differences of scores."""
    rng = np.random.default_rng(1)
    u = rng.standard_normal((8, *x.shape[1:])).astype(np.float32)
    up, down = (runs.scores(x + sign * step * u) for sign in (1, -1))
    return u, (up - down) / (2 * step)


@pytest.mark.parametrize("net", [mlp, tokens, columns], ids=lambda net: net.__name__)
def test_the_gradient_at_what_stands_for_the_input_is_that_of_the_scores(net) -> None:
    if net is tokens:
        one = opened(net())
        ids = np.array([[3, 1, 4, 1, 5, 9]])
        runs, x = one.around({"ids": ids, "mask": np.array([[1, 1, 1, 1, 0, 0]])})
        assert x.shape == (1, 6, 8)
    elif net is columns:
        one = opened(net())
        runs, x = one.around({"age": [[0.3]], "income": [[-1.2]], "children": [[2]]})
        assert runs.gradient(x)[0, 2] == 0  # a whole number has no derivative
        x = np.asarray(x, np.float32)
    else:
        runs, x = around_noise(net(), index=None)
    gradient = runs.gradient(x)
    u, expected = differences(runs, x)
    if net is columns:
        u = u * [1, 1, 0]
        expected = (runs.scores(x + 1e-2 * u) - runs.scores(x - 1e-2 * u)) / 2e-2
    assert (gradient.reshape(1, -1) * u.reshape(8, -1)).sum(1) == pytest.approx(expected, abs=5e-3)


def test_a_batch_has_as_many_texts_as_their_own_length_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that leaves the number of tokens open is taken to read 64, until an example says how many it has."""
    monkeypatch.setattr(model_runs, "BATCH_BYTES", 2**20)
    net = Net(17)
    hidden = net.op("Tanh", net.op("MatMul", "x", net.weight(4, 8)))
    mean = net.op("ReduceMean", hidden, net.constant([1], np.int64), keepdims=0)
    one = opened(net.model(("n", "tokens", 4), net.dense(mean, 8, 2)))
    of = {length: one.batch(gradient=True, feeds={"x": np.zeros((1, length, 4))}) for length in (16, 64, 256)}
    assert of[64] == one.batch(gradient=True)
    assert of[16] == pytest.approx(4 * of[64], rel=0.1)
    assert of[256] == pytest.approx(of[64] / 4, rel=0.1)
    x = np.random.default_rng(0).standard_normal((9, 16, 4)).astype(np.float32)
    runs, _ = one.around({"x": x[:1]})
    together = runs.gradient(x)
    monkeypatch.setattr(model_runs, "LARGEST_BATCH", 1)
    one.kept.clear()
    assert (runs.gradient(x) == together).all()


def test_a_masked_token_has_no_gradient() -> None:
    runs, x = opened(tokens()).around({"ids": np.array([[3, 1, 4, 1, 5, 9]]), "mask": np.array([[1, 1, 1, 1, 0, 0]])})
    size = np.abs(runs.gradient(x)).sum(2)[0]
    assert (size[:4] > 0).all()
    assert (size[4:] == 0).all()


@pytest.mark.parametrize("name", [name for name in NETS if name != "mlp"])
def test_a_seed_of_a_class_at_the_scores_is_the_gradient(name) -> None:
    runs, x = around_noise(NETS[name]())
    probe = runs.activations(x, runs.scores_at)
    seeds = np.zeros((3, *probe.shape[1:]), np.float32)
    for row in range(3):
        seeds[row, row] = 1
    for lower in (INPUT, first_layer(runs)):
        pulled = runs.pull(runs.scores_at, seeds, lower, x)
        expected = runs.gradient(x, lower)
        assert pulled.shape == (3, *expected.shape[1:])
        assert pulled[1] == pytest.approx(expected[0], abs=1e-5 * float(np.abs(expected).max()))


def first_layer(runs) -> str:
    """The output of the first convolution's activation."""
    return next(node.outputs[0].name for node in runs.opened.model.ir.graph if node.op_type in ("Relu", "Clip"))


def test_the_rest_of_a_model_from_its_own_activations_is_the_score() -> None:
    runs, x = around_noise(resnet())
    layer = first_layer(runs)
    assert runs.rest(layer, runs.activations(x, layer), x) == pytest.approx(runs.scores(x), abs=1e-5)


@pytest.mark.parametrize("net", [resnet, squeezenet, efficientnet], ids=lambda net: net.__name__)
def test_inputs_and_biases_account_for_the_score_of_a_piecewise_linear_model(net) -> None:
    runs, x = around_noise(net())
    inputs = float((x.astype(float) * runs.gradient(x)).sum())
    assert inputs + runs.bias_part(x) == pytest.approx(runs.scores(x)[0], abs=2e-5)


def test_passes_are_counted_by_what_they_cost() -> None:
    runs, x = around_noise(mlp(), n=3, index=None)
    runs.scores(x)
    assert runs.passes == 3
    runs.gradient(x)
    assert runs.passes == 3 + 3 * GRADIENT


def test_a_layer_without_a_path_is_refused_by_name() -> None:
    runs, x = around_noise(resnet())
    with pytest.raises(InvalidInput, match="has no gradient of layer"):
        runs.pull(first_layer(runs), np.ones((1, 1), np.float32), runs.scores_at, x)
    with pytest.raises(InvalidInput, match="has no layer 'nowhere'"):
        runs.gradient(x, "nowhere")


def test_biases_are_found_behind_operators_that_make_them() -> None:
    for seed in range(4):
        runs, x = around_noise(biases_made_by_operators(), seed=seed)
        inputs = float((x.astype(float) * runs.gradient(x)).sum())
        biases = runs.bias_part(x)
        assert inputs + biases == pytest.approx(runs.scores(x)[0], abs=1e-5)
        lrp = explanation("lrp").run(runs, x, explanation("lrp").entry.options())
        assert lrp.withheld is None
        assert lrp.rest == pytest.approx([biases], abs=1e-3)


def test_words_stand_for_the_input_and_neither_their_types_nor_the_mask() -> None:
    assert opened(kinds_of_tokens()).entry.names == ("words",)
