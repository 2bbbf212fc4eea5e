"""Small models of trees and support vectors, written by hand, and what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

ML = "ai.onnx.ml"


class Stump(NamedTuple):
    """A tree of one question: `below` where the feature is at most the threshold, else `above`."""

    feature: int
    threshold: float
    below: float
    above: float


STUMPS = (Stump(0, 0.4, -1.2, 1.5), Stump(2, 0.0, 0.3, -0.4), Stump(3, -0.5, -0.2, 0.6), Stump(0, 1.1, 0.0, 0.8))
"""The second feature is in none of them."""


def margin(x: NDArray[Any], stumps: Sequence[Stump] = STUMPS) -> NDArray[Any]:
    """What the stumps add up to at examples [n, features]."""
    return np.sum([np.where(x[:, one.feature] <= one.threshold, one.below, one.above) for one in stumps], axis=0)


def probability(x: NDArray[Any], stumps: Sequence[Stump] = STUMPS) -> NDArray[Any]:
    """The boosted classifier's probability of the second class [n]."""
    return np.asarray(1 / (1 + np.exp(-margin(x, stumps))))


def boosted_classifier(labels: Sequence[int | str] = (0, 1), *, zip_map: bool = False) -> onnx.ModelProto:
    """`label` and `probabilities` of two classes, as converters of gradient boosting write them."""
    attributes = {**_trees("class", STUMPS), **_labels(labels), "post_transform": "LOGISTIC"}
    tree = helper.make_node("TreeEnsembleClassifier", ["x"], ["label", "scores"], domain=ML, name="trees", **attributes)
    names = {"classlabels_strings": labels} if isinstance(labels[0], str) else {"classlabels_int64s": labels}
    last = helper.make_node("Identity", ["scores"], ["probabilities"])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])
    if zip_map:
        last = helper.make_node("ZipMap", ["scores"], ["probabilities"], domain=ML, **names)
        kind = helper.make_sequence_type_proto(
            helper.make_map_type_proto(
                TensorProto.STRING if isinstance(labels[0], str) else TensorProto.INT64,
                helper.make_tensor_type_proto(TensorProto.FLOAT, None),
            )
        )
        output = helper.make_value_info("probabilities", kind)
    return model([tree, last], [label_output(labels), output])


def boosted_regressor() -> onnx.ModelProto:
    """`prediction` [n, 1]: what the stumps add up to."""
    attributes = {**_trees("target", STUMPS), "n_targets": 1}
    tree = helper.make_node("TreeEnsembleRegressor", ["x"], ["prediction"], domain=ML, name="trees", **attributes)
    return model([tree], [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])])


def vector_machine(*, probable: bool) -> onnx.ModelProto:
    """A support vector classifier with a linear kernel over two vectors; scores [n, 2]."""
    vectors = [1.0, 0.0, 0.5, 0.0, -1.0, 0.0, 0.2, 0.3]
    attributes: dict[str, Any] = {
        "classlabels_ints": [0, 1],
        "coefficients": [1.0, -1.0],
        "kernel_type": "LINEAR",
        "kernel_params": [0.0, 0.0, 0.0],
        "post_transform": "NONE",
        "rho": [0.1],
        "support_vectors": vectors,
        "vectors_per_class": [1, 1],
        **({"prob_a": [-1.5], "prob_b": [0.05]} if probable else {}),
    }
    node = helper.make_node("SVMClassifier", ["x"], ["label", "scores"], domain=ML, name="vectors", **attributes)
    return model(
        [node], [label_output([0, 1]), helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, None])]
    )


def label_output(labels: Sequence[int | str]) -> onnx.ValueInfoProto:
    kind = TensorProto.STRING if isinstance(labels[0], str) else TensorProto.INT64
    return helper.make_tensor_value_info("label", kind, [None])


def model(nodes: Sequence[onnx.NodeProto], outputs: Sequence[onnx.ValueInfoProto], **kept: Any) -> onnx.ModelProto:
    """A model of four features `x` [n, 4]."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])]
    graph = helper.make_graph(list(nodes), "hand", inputs, list(outputs), **kept)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(ML, 1)], ir_version=8
    )


def _trees(of: str, stumps: Sequence[Stump]) -> dict[str, Any]:
    """The trees' attributes: node 0 asks, node 1 is the leaf below, node 2 the one above."""
    count = len(stumps)
    nodes = {
        "nodes_treeids": np.repeat(np.arange(count), 3),
        "nodes_nodeids": np.tile([0, 1, 2], count),
        "nodes_featureids": np.repeat([one.feature for one in stumps], 3),
        "nodes_truenodeids": np.tile([1, 0, 0], count),
        "nodes_falsenodeids": np.tile([2, 0, 0], count),
    }
    leaves = {
        f"{of}_treeids": np.repeat(np.arange(count), 2),
        f"{of}_nodeids": np.tile([1, 2], count),
        f"{of}_ids": np.full(2 * count, 1 if of == "class" else 0),
    }
    return {
        **{name: values.tolist() for name, values in {**nodes, **leaves}.items()},
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"] * count,
        "nodes_values": [value for one in stumps for value in (one.threshold, 0.0, 0.0)],
        f"{of}_weights": [value for one in stumps for value in (one.below, one.above)],
    }


def _labels(labels: Sequence[int | str]) -> dict[str, Any]:
    kind = "strings" if isinstance(labels[0], str) else "int64s"
    return {f"classlabels_{kind}": list(labels)}
