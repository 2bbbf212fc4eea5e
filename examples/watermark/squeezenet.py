"""SqueezeNet 1.1 (Iandola et al. 2016) as ONNX."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from examples.graph import Convolution, Graph
from examples.packages import PackagedFile
from examples.pickles import read_numpy_pickle

WEIGHTS = PackagedFile(
    package="ndf",
    path="ndf/example_models/weights/squeezenet_weights.pkl",
    sha256="f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
)

Layers = Mapping[str, Convolution]


def squeezenet() -> ModelProto:
    """`image` [N, 3, 224, 224], bgr - (104, 117, 123) → `logits` [N, 1000]; modules are `fire2` to `fire9`."""
    layers = _layers(read_numpy_pickle(WEIGHTS.read()))
    graph = Graph("squeezenet1.1")
    x = _relu(graph, layers["conv1"].write(graph, "image", "conv1/conv", stride=2), "conv1")
    x = _max_pool(graph, x, "pool1")
    for number in range(2, 10):
        x = _fire(graph, layers, x, f"fire{number}")
        if number in (3, 5):
            x = _max_pool(graph, x, f"pool{number}")
    x = _relu(graph, layers["conv10"].write(graph, x, "conv10/conv"), "conv10")
    graph.node("Flatten", [graph.node("GlobalAveragePool", [x], "pooled")], "logits", axis=1)
    return graph.model({"image": ["N", 3, 224, 224]}, {"logits": ["N", 1000]})


def _layers(weights: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]) -> Layers:
    """The package keeps kernels as [height, width, in, out]."""
    return {name: Convolution(kernel.transpose(3, 2, 0, 1), bias) for name, (kernel, bias) in weights.items()}


def _fire(graph: Graph, layers: Layers, x: str, name: str) -> str:
    """Squeeze the channels, then expand them by two convolutions side by side."""
    parts = {part: layers[f"{name}/{part}"] for part in ("squeeze1x1", "expand1x1", "expand3x3")}
    x = _relu(graph, parts["squeeze1x1"].write(graph, x, f"{name}/squeeze/conv"), f"{name}/squeeze")
    narrow = _relu(graph, parts["expand1x1"].write(graph, x, f"{name}/expand1x1/conv"), f"{name}/expand1x1")
    wide = parts["expand3x3"].write(graph, x, f"{name}/expand3x3/conv", pads=(1, 1, 1, 1))
    return graph.node("Concat", [narrow, _relu(graph, wide, f"{name}/expand3x3")], name, axis=1)


def _max_pool(graph: Graph, x: str, name: str) -> str:
    return graph.node("MaxPool", [x], name, kernel_shape=[3, 3], strides=[2, 2])


def _relu(graph: Graph, x: str, name: str) -> str:
    return graph.node("Relu", [x], name)
