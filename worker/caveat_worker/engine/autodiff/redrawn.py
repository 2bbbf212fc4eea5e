"""A model whose weights are drawn at random: what an explanation of the trained one is held against."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.differentiate import copy_of
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.base.arrays import AnyArray

_WEIGHTS = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1)}
"""Operators → the inputs that hold their weights and biases."""


def with_redrawn_weights(model: Model, seed: int, *, last: int | None = None) -> Model:
    """A copy with weights from `redrawn_weights`."""
    copy = copy_of(model)
    for name, drawn in redrawn_weights(model, seed, last=last).items():
        copy.ir.graph.initializers[name].const_value = ir.tensor(drawn, name=name)
    return copy


def redrawn_weights(model: Model, seed: int, *, last: int | None = None) -> dict[str, AnyArray]:
    """Weights by name, drawn from a normal distribution of their tensor's spread; with `last`, those nearest the output
    only, by so many operators. What is no weight, such as the bounds of a Clip, is not among them.
    """
    rng = np.random.default_rng(seed)
    arrays = {name: _array(value) for name, value in _weights(model, last).items()}
    return {
        name: (rng.standard_normal(array.shape) * float(array.std())).astype(array.dtype)
        for name, array in arrays.items()
    }


def weights_of(model: Model, *, last: int | None = None) -> dict[str, AnyArray]:
    """The weights that a model has, the nearest to the output first."""
    return {name: _array(value) for name, value in _weights(model, last).items()}


def with_weights_as_inputs(model: Model) -> Model:
    """A copy that takes its weights as further inputs, so that one session runs redrawn models too."""
    copy = copy_of(model)
    weights = _weights(copy, None)
    for name, value in weights.items():
        del copy.ir.graph.initializers[name]
        value.const_value = None
        copy.ir.graph.inputs.append(value)
    return replace(copy, weights=tuple(weights))


def operators_with_weights(model: Model) -> int:
    """How many operators have weights."""
    return sum(bool(_weights_of(node)) for node in model.ir.graph)


def _weights(model: Model, last: int | None) -> dict[str, ir.Value]:
    """The weights of the last operators that have any, each once, the nearest to the output first."""
    found = [weights for node in reversed(model.ir.graph) if (weights := _weights_of(node))]
    return {value.name or "": value for weights in found[:last] for value in weights}


def _array(weights: ir.Value) -> AnyArray:
    assert weights.const_value is not None
    return weights.const_value.numpy()


def _weights_of(node: ir.Node) -> list[ir.Value]:
    """The weights and biases of one operator; a single number is none, because it has no spread."""
    if node.domain or node.op_type not in _WEIGHTS:
        return []
    inputs = [node.inputs[position] for position in _WEIGHTS[node.op_type] if position < len(node.inputs)]
    known = [x for x in inputs if x is not None and x.is_initializer() and x.const_value is not None]
    return [x for x in known if x.const_value is not None and x.const_value.size > 1]
