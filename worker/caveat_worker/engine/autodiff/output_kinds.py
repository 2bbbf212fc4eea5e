"""What an output without a softmax or sigmoid holds, by the operator of ai.onnx.ml that makes it."""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

import onnx_ir as ir

from caveat_worker.engine.onnx.learned_shapes import DOMAIN
from caveat_worker.engine.onnx.values import LOWERED_FROM

Kind = Literal["none", "probabilities", "values"]
"""`none`: scores, as far as the graph tells; `values`: numbers of a regression."""

_THROUGH = {
    "Cast", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Transpose",
    "Unsqueeze",
}  # fmt: skip
_SQUASHED = {"LOGISTIC", "PROBIT", "SOFTMAX", "SOFTMAX_ZERO"}
_REGRESSORS = {"LinearRegressor", "SVMRegressor", "TreeEnsemble", "TreeEnsembleRegressor"}
_SHARES = 1e-4
"""How far leaves of float32 that are shares may add up to more than 1."""


def kind_of_output(value: ir.Value) -> Kind:
    """The kind of an output, through operators that only rename, reshape or round it."""
    node = value.producer()
    while node is not None and node.op_type in _THROUGH and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is not None and node.metadata_props.get(LOWERED_FROM) in _REGRESSORS:
        return "values"
    if node is not None and node.domain == "" and node.op_type in {"Sigmoid", "Softmax"}:
        return "probabilities"  # of another layout than the scores before them
    if node is None or node.domain != DOMAIN:
        return "none"
    squashed = _text(node, "post_transform") in _SQUASHED
    if node.op_type in _REGRESSORS:
        return "probabilities" if squashed else "values"
    probable = squashed or "prob_a" in node.attributes or (node.op_type == "TreeEnsembleClassifier" and _vote(node))
    return "probabilities" if probable else "none"


def _vote(node: ir.Node) -> bool:
    """Whether the leaves of all trees are shares of the classes, as a random forest's are."""
    weights, trees, leaves = (_list(node, f"class_{name}") for name in ("weights", "treeids", "nodeids"))
    total: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for weight, tree, leaf in zip(weights, trees, leaves, strict=False):
        total[int(tree)][int(leaf)] += weight
    largest = sum(max(of_tree.values()) for of_tree in total.values())
    return bool(weights) and min(weights) >= 0 and largest <= 1 + _SHARES and not _list(node, "base_values")


def _list(node: ir.Node, name: str) -> list[float]:
    if name in node.attributes:
        return [float(one) for one in node.attributes[name].value]
    tensor = node.attributes.get(f"{name}_as_tensor")
    return [] if tensor is None else [float(one) for one in tensor.as_tensor().numpy().ravel()]


def _text(node: ir.Node, name: str) -> str:
    attribute = node.attributes.get(name)
    if attribute is None:
        return "NONE"
    return _BY_NUMBER[attribute.as_int()] if attribute.type == ir.AttributeType.INT else attribute.as_string()


_BY_NUMBER = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
"""The values of `post_transform` since TreeEnsemble, which counts them."""
