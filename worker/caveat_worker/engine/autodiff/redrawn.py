"""A model whose weights are drawn at random: what an explanation of the trained one is held against."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.differentiate import copy_of
from caveat_worker.engine.autodiff.model import Model

_WEIGHTS = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1)}
"""Operators → the inputs that hold their weights and biases."""


def with_redrawn_weights(model: Model, seed: int, *, last: int | None = None) -> Model:
    """A copy whose weights are drawn from a normal distribution of their tensor's spread; with `last`, those nearest
    the output only, by so many operators. What is no weight, such as the bounds of a Clip, stays.
    """
    copy = copy_of(model)
    rng = np.random.default_rng(seed)
    for value in _weights(copy, last):
        assert value.const_value is not None
        array = value.const_value.numpy()
        drawn = rng.standard_normal(array.shape) * float(array.std())
        value.const_value = ir.tensor(drawn.astype(array.dtype), name=value.name)
    return copy


def operators_with_weights(model: Model) -> int:
    """How many operators have weights."""
    return sum(bool(_weights_of(node)) for node in model.ir.graph)


def _weights(model: Model, last: int | None) -> list[ir.Value]:
    """The weights of the last operators that have any, each once, the nearest to the output first."""
    found = [weights for node in reversed(model.ir.graph) if (weights := _weights_of(node))]
    return list(dict.fromkeys(value for weights in found[:last] for value in weights))


def _weights_of(node: ir.Node) -> list[ir.Value]:
    """The weights and biases of one operator; a single number is none, because it has no spread."""
    if node.domain or node.op_type not in _WEIGHTS:
        return []
    inputs = [node.inputs[position] for position in _WEIGHTS[node.op_type] if position < len(node.inputs)]
    known = [x for x in inputs if x is not None and x.is_initializer() and x.const_value is not None]
    return [x for x in known if x.const_value is not None and x.const_value.size > 1]
