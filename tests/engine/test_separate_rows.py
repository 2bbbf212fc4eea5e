"""The proof that examples of a batch do not influence each other: what it finds, and what it must not claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from caveat_worker.engine.autodiff import equivalence
from caveat_worker.engine.autodiff.equivalence import examples_interact
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.separate_rows import rows_stay_apart
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.onnx.session import open_session
from tests.engine import nets
from tests.engine.nets import Net

PICTURE, TABLE = ("n", 4, 6, 6), ("n", 4)


def numbers(net: Net, *values: int) -> str:
    return net.constant(list(values), np.int64)


APART: dict[str, tuple[tuple[object, ...], Callable[[Net], str]]] = {
    "a number added": (TABLE, lambda net: net.op("Add", "x", net.weight(4))),
    "a row for each place": (TABLE, lambda net: net.op("Mul", net.op("Exp", "x"), net.op("Neg", "x"))),
    "a matrix": (TABLE, lambda net: net.op("MatMul", "x", net.weight(4, 3))),
    "a matrix for each example": (PICTURE, lambda net: net.op("MatMul", "x", net.op("Tanh", "x"))),
    "a matrix from the left": (PICTURE, lambda net: net.op("MatMul", net.weight(5, 6), "x")),
    "softmax": (TABLE, lambda net: net.op("Softmax", "x")),
    "a mean over channels": (PICTURE, lambda net: net.op("ReduceMean", "x", numbers(net, 1, -1))),
    "flattened": (PICTURE, lambda net: net.op("Flatten", "x")),
    "reshaped by copy": (PICTURE, lambda net: net.op("Reshape", "x", numbers(net, 0, -1))),
    "reshaped by inference": (PICTURE, lambda net: net.op("Reshape", "x", numbers(net, -1, 36, 4))),
    "transposed behind rows": (PICTURE, lambda net: net.op("Transpose", "x", perm=[0, 2, 3, 1])),
    "joined": (TABLE, lambda net: net.op("Concat", "x", net.op("Abs", "x"), axis=1)),
    "picked": (PICTURE, lambda net: net.op("Gather", "x", numbers(net, 2, 0), axis=1)),
    "cut": (PICTURE, lambda net: net.op("Slice", "x", numbers(net, 1), numbers(net, 4), numbers(net, 2))),
    "padded": (PICTURE, lambda net: net.op("Pad", "x", numbers(net, 0, 0, 1, 2, 0, 0, 1, 0))),
    "normalised by known statistics": (PICTURE, lambda net: net.norm("x", 4)),
    "normalised by each example's": (
        PICTURE,
        lambda net: net.op("InstanceNormalization", "x", net.weight(4), net.weight(4)),
    ),
}
MIXED: dict[str, tuple[tuple[object, ...], Callable[[Net], str]]] = {
    "less the batch's mean": (
        TABLE,
        lambda net: net.op("Sub", "x", net.op("ReduceMean", "x", numbers(net, 0))),
    ),
    "less the batch's mean, counted from the end": (
        PICTURE,
        lambda net: net.op("Sub", "x", net.op("ReduceMean", "x", numbers(net, -4))),
    ),
    "over the sum of everything": (TABLE, lambda net: net.op("Div", "x", net.op("ReduceSum", "x"))),
    "softmax over the batch": (TABLE, lambda net: net.op("Softmax", "x", axis=0)),
    "an inner product of examples": (
        TABLE,
        lambda net: net.op("MatMul", net.op("MatMul", "x", net.op("Transpose", "x", perm=[1, 0])), net.op("Exp", "x")),
    ),
    "rows beside columns": (
        TABLE,
        lambda net: net.op(
            "ReduceMean",
            net.op("Mul", net.op("Unsqueeze", "x", numbers(net, 1)), "x"),  # [n, 1, 4] by [n, 4]
            numbers(net, 1),
            keepdims=0,
        ),
    ),
    "every second row of two": (
        TABLE,
        lambda net: net.op(
            "Reshape",
            net.op("Transpose", net.op("Reshape", "x", numbers(net, 4, -1)), perm=[1, 0]),
            numbers(net, -1, 4),
        ),
    ),
    "normalised as in training": (
        PICTURE,
        lambda net: net.op(
            "BatchNormalization",
            "x",
            *(net.constant(np.ones(4)) for _ in range(4)),
            outputs=3,
            training_mode=1,
        )[0],
    ),
    "a running sum over the batch": (TABLE, lambda net: net.op("CumSum", "x", net.constant(0, np.int64))),
    "a branch": (
        TABLE,
        lambda net: net.op("Where", net.op("Greater", net.op("ReduceMax", "x", keepdims=0), net.weight(1)), "x",
                           net.op("Neg", "x")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_operators_that_keep_examples_apart_are_proven_to(name: str) -> None:
    shape, write = APART[name]
    net = Net()
    model = load(net.model(shape, write(net)), interacts=False)
    assert rows_stay_apart(model.ir)
    assert not examples_interact(model.ir, open_session(Graph(model.ir), threads=1, optimise=False))


@pytest.mark.parametrize("name", MIXED)
def test_nothing_is_claimed_of_operators_that_mix_examples(name: str) -> None:
    shape, write = MIXED[name]
    net = Net()
    assert not rows_stay_apart(load(net.model(shape, write(net)), interacts=False).ir)


@pytest.mark.parametrize("make", [nets.mlp, nets.resnet, nets.googlenet, nets.squeezenet, nets.efficientnet])
def test_a_model_that_is_proven_is_not_run_on_noise_for_it(
    make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []

    def exchanged(values: NDArray[Any]) -> NDArray[Any]:
        runs.append(len(values))
        return values

    monkeypatch.setattr(equivalence, "_with_other_neighbours", exchanged)
    assert not load(make()).interacts
    assert not runs
    net = Net()
    load(net.model(TABLE, net.op("CumSum", "x", net.constant(1, np.int64))))  # along features: there is no rule for it
    assert runs


def test_an_operator_that_draws_is_no_proof() -> None:
    net = Net()
    drawn = net.op("RandomNormal", shape=[4])
    assert not rows_stay_apart(load(net.model(TABLE, net.op("Add", "x", drawn)), interacts=False).ir)


def about_batches(*nodes: Callable[[Net], str]) -> str:
    """What loading says about a model whose last operator follows the input."""
    net = Net()
    (write,) = nodes
    return " ".join(load(net.model(TABLE, write(net))).warnings)


def less_the_mean(net: Net) -> str:
    return str(net.op("Sub", "x", net.op("ReduceMean", "x", net.constant([0], np.int64))))


def in_training_mode(net: Net) -> str:
    plain = [net.constant(np.ones(4)) for _ in range(4)]
    return str(net.op("BatchNormalization", "x", *plain, outputs=3, training_mode=1)[0])


def with_noise(net: Net) -> str:
    return str(net.op("Add", "x", net.op("RandomNormalLike", "x")))


def dropped(net: Net) -> str:
    return str(net.op("Dropout", "x", net.constant(0.5), net.constant(True, np.bool_), seed=1))


def test_what_follows_from_batches_is_said_with_its_cause() -> None:
    assert "so each goes through the model alone" in about_batches(less_the_mean)
    assert "draws random numbers at node 'add" not in about_batches(with_noise)
    assert "draws random numbers at node 'randomnormallike" in about_batches(with_noise)
    assert about_batches(lambda net: str(net.op("Relu", "x"))) == ""


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (in_training_mode, "is in training mode, so that an example"),
        (dropped, "is in training mode|draws random numbers"),
    ],
)
def test_a_model_in_training_mode_is_refused(write: Callable[[Net], str], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as refused:
        about_batches(write)
    assert "model.eval()" in refused.value.remedy
