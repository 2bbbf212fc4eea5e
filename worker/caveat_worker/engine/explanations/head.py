"""The head of a model: its last affine layer, which turns features into the scores that a target is read from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.values import shape_of_value


@dataclass(frozen=True)
class Head:
    """Scores are the features times the weights, and biases."""

    features: str
    """The tensor that the last affine layer reads [n, d]."""
    weights: Float64Array
    """[classes, d]"""


def find_head(model: Model, scores: str) -> Head:
    """The head that makes a tensor of scores; raises InvalidInput where an affine layer of features does not."""
    node = _behind_biases(model.value(scores))
    if node is not None and node.op_type in ("Gemm", "MatMul"):
        features, weights = node.inputs[0], _constant(node.inputs[1])
        if features is not None and weights is not None and weights.ndim == 2 and _is_matrix(features):
            turned = "transB" in node.attributes and node.attributes["transB"].as_int() == 1
            return Head(features.name or "", weights if turned else weights.T)
    made = "no operator" if node is None else f"an operator {node.op_type}"
    raise InvalidInput(
        "head-not-affine",
        f"The influence of examples is computed at the last layer, where '{scores}' has to be an affine function of "
        f"features, and it comes from {made}.",
        "Name the logits before it as the target's output, or export the model with a dense layer at its end.",
    )


def _behind_biases(value: ir.Value | None) -> ir.Node | None:
    """The node that makes a tensor, before operators that only add a constant to it."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in ("Add", "Identity"):
        varying = [one for one in node.inputs if one is not None and _constant(one) is None]
        if len(varying) != 1:
            return node
        node = varying[0].producer()
    return node


def _constant(value: ir.Value | None) -> Float64Array | None:
    """The numbers of a weight; None for what depends on the example."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return np.asarray(value.const_value.numpy(), float)


def _is_matrix(value: ir.Value) -> bool:
    return len(shape_of_value(value) or ()) == 2
