"""Real models for explanations: opened networks with seeded weights, and noise as their examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.explanations.model_runs import ModelRuns, OpenModel
from tests.engine.nets import Net, noise


def opened(model: bytes, **target: Any) -> OpenModel:
    return OpenModel(load(model, interacts=False), Target("t", **{"index": 1, **target}))


def around_noise(model: bytes, n: int = 1, seed: int = 0, **target: Any) -> tuple[ModelRuns, NDArray[Any]]:
    """Runs around noise, and the noise as n examples."""
    one = opened(model, **target)
    feeds = noise(one.model, n, seed)
    return one.around(feeds)


def tokens() -> bytes:
    """Embeddings of token ids [n, 6] with a mask, a dense layer for each token, and the masked mean."""
    net = Net(11)
    words = net.op("Gather", net.weight(20, 8, gain=2), "ids")
    mask = net.op("Unsqueeze", net.op("Cast", "mask", to=1), net.constant([2], np.int64))
    inner = net.op("Tanh", net.op("Add", net.op("MatMul", words, net.weight(8, 8)), net.weight(8)))
    total = net.op("ReduceSum", net.op("Mul", inner, mask), net.constant([1], np.int64), keepdims=0)
    scores = net.dense(total, 8, 3)
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ("n", 6)) for name in ("ids", "mask")]
    return _proto(net, ids, scores)


def kinds_of_tokens() -> bytes:
    """Token ids [n, 6] with types and a mask, whose tensors come before the words' embeddings `words` [n, 6, 8]."""
    net = Net(15)
    mask = net.op("Unsqueeze", net.op("Cast", "mask", to=1), net.constant([2], np.int64))
    types = net.op("Gather", net.weight(2, 8), "types")
    net.nodes.append(helper.make_node("Gather", [net.weight(20, 8, gain=2), "ids"], ["words"]))
    inner = net.op(
        "Tanh", net.op("Add", net.op("MatMul", net.op("Add", types, "words"), net.weight(8, 8)), net.weight(8))
    )
    total = net.op("ReduceSum", net.op("Mul", inner, mask), net.constant([1], np.int64), keepdims=0)
    scores = net.dense(total, 8, 3)
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ("n", 6)) for name in ("ids", "types", "mask")]
    return _proto(net, ids, scores)


def biases_made_by_operators() -> bytes:
    """A net whose biases are reshaped, and expanded to the example's own sizes, before they are added."""
    net = Net(16)
    first = net.op("MatMul", "x", net.weight(6, 5))
    first = net.op("Add", first, net.op("Reshape", net.weight(5, 1, gain=3), net.constant([1, 5], np.int64)))
    hidden = net.op("Relu", first)
    expanded = net.op("Expand", net.weight(1, 5, gain=3), net.op("Shape", hidden))
    hidden = net.op("Relu", net.op("Sub", hidden, expanded))
    scores = net.op(
        "MatMul", net.op("Mul", hidden, net.op("Expand", net.weight(1, 5), net.op("Shape", hidden))), net.weight(5, 2)
    )
    return _proto(net, [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 6))], scores)


def columns() -> bytes:
    """A table of two numbers and a whole number, each an input [n, 1], through a dense layer with Tanh."""
    net = Net(12)
    joined = net.op("Concat", "age", "income", net.op("Cast", "children", to=1), axis=1)
    scores = net.dense(net.op("Tanh", net.dense(joined, 3, 8)), 8, 2)
    kinds = {"age": TensorProto.FLOAT, "income": TensorProto.FLOAT, "children": TensorProto.INT64}
    return _proto(net, [helper.make_tensor_value_info(name, kind, ("n", 1)) for name, kind in kinds.items()], scores)


def bytes_of_pictures() -> bytes:
    """Pictures [n, 3, 8, 8] of whole numbers from 0 to 255; behind the activations of `layer` it is linear."""
    net = Net(13)
    numbers = net.op("Div", net.op("Cast", "x", to=1), net.constant(255))
    net.nodes.append(helper.make_node("Relu", [net.conv(numbers, 3, 4)], ["layer"]))
    scores = net.dense(net.op("Flatten", net.op("GlobalAveragePool", "layer")), 4, 3)
    return _proto(net, [helper.make_tensor_value_info("x", TensorProto.UINT8, ("n", 3, 8, 8))], scores)


def single_number() -> bytes:
    """One number for each example, as an input [n], through a dense layer with Tanh."""
    net = Net(14)
    column = net.op("Unsqueeze", "x", net.constant([1], np.int64))
    scores = net.dense(net.op("Tanh", net.dense(column, 1, 4)), 4, 2)
    return _proto(net, [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n",))], scores)


def _proto(net: Net, inputs: list[Any], scores: str) -> bytes:
    output = helper.make_tensor_value_info(scores, TensorProto.FLOAT, None)
    graph = helper.make_graph(net.nodes, "net", inputs, [output], net.initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(onnx.shape_inference.infer_shapes(proto).SerializeToString())
