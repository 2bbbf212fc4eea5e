"""The networks that are timed: GoogLeNet, ResNet-50 and a small perceptron, with seeded random weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from examples.graph import Convolution, Graph

GOOGLENET_LAYERS = ("inception4c", "pool")
"""512 x 14 x 14 = 100,352 features, and 1,024."""
RESNET_LAYER = "stage3"
"""1,024 x 14 x 14 features."""

INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Channels of table 1 in Szegedy et al. 2015: 1 x 1, 3 x 3 reduced, 3 x 3, 5 x 5 reduced, 5 x 5, pooled."""


def googlenet(classes: int = 1000, seed: int = 0) -> ModelProto:
    """GoogLeNet at 224 pixels (Szegedy et al. 2015), as its torchvision export is: normalisation folded away."""
    net = _Net("googlenet", seed)
    x = net.convolution("input", 3, 64, 7, "conv1", stride=2)
    x = net.pool(x, "pool1", 3, 2)
    x = net.convolution(x, 64, 64, 1, "conv2")
    x = net.convolution(x, 64, 192, 3, "conv3")
    x, channels = net.pool(x, "pool2", 3, 2), 192
    for name, sizes in INCEPTIONS.items():
        if name in ("4a", "5a"):
            x = net.pool(x, f"pool{name[0]}", 3 if name == "4a" else 2, 2)
        x, channels = _inception(net, x, channels, f"inception{name}", sizes)
    return net.classified(x, channels, classes)


def resnet50(classes: int = 1000, seed: int = 0) -> ModelProto:
    """ResNet-50 at 224 pixels (He et al. 2016), normalisation folded away."""
    net = _Net("resnet50", seed)
    x = net.pool(net.convolution("input", 3, 64, 7, "conv1", stride=2), "pool1", 3, 2)
    channels = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=1):
        for block in range(blocks):
            last = block == blocks - 1
            name = f"stage{stage}" if last else f"stage{stage}.{block}"
            x = _bottleneck(net, x, channels, width, name, stride=2 if block == 0 and stage > 1 else 1)
            channels = 4 * width
    return net.classified(x, channels, classes)


def perceptron(features: int, widths: Sequence[int], seed: int = 0) -> ModelProto:
    """Hidden layers of these widths and one score: what a small audit of a table looks at."""
    net = _Net("perceptron", seed)
    x, size = "input", features
    for number, width in enumerate(widths, start=1):
        dense = net.dense(x, size, width, f"hidden{number}.sum")
        x, size = net.graph.node("Tanh", [dense], f"hidden{number}"), width
    return net.graph.model({"input": ["N", features]}, {net.dense(x, size, 1, "score"): ["N", 1]})


def _inception(net: _Net, x: str, channels: int, name: str, sizes: Sequence[int]) -> tuple[str, int]:
    one, reduce3, three, reduce5, five, pooled = sizes
    small = net.convolution(x, channels, reduce3, 1, f"{name}.reduce3")
    smaller = net.convolution(x, channels, reduce5, 1, f"{name}.reduce5")
    branches = [
        net.convolution(x, channels, one, 1, f"{name}.1x1"),
        net.convolution(small, reduce3, three, 3, f"{name}.3x3"),
        net.convolution(smaller, reduce5, five, 3, f"{name}.5x5"),  # as torchvision's, whose 5 x 5 is a 3 x 3
        net.convolution(net.pool(x, f"{name}.pool", 3, 1), channels, pooled, 1, f"{name}.pooled"),
    ]
    return net.graph.node("Concat", branches, name, axis=1), one + three + five + pooled


def _bottleneck(net: _Net, x: str, channels: int, width: int, name: str, *, stride: int) -> str:
    inner = net.convolution(x, channels, width, 1, f"{name}.conv1")
    inner = net.convolution(inner, width, width, 3, f"{name}.conv2", stride=stride)
    inner = net.convolution(inner, width, 4 * width, 1, f"{name}.conv3", relu=False, gain=0.2)
    past = x
    if channels != 4 * width:
        past = net.convolution(x, channels, 4 * width, 1, f"{name}.past", stride=stride, relu=False)
    return net.graph.node("Relu", [net.graph.node("Add", [inner, past], f"{name}.sum")], name)


class _Net:
    """A graph and the generator that fills its weights (He et al. 2015)."""

    def __init__(self, name: str, seed: int) -> None:
        self.graph = Graph(name)
        self._rng = np.random.default_rng(seed)

    def convolution(
        self,
        x: str,
        channels: int,
        filters: int,
        size: int,
        name: str,
        *,
        stride: int = 1,
        relu: bool = True,
        gain: float = 1.0,
    ) -> str:
        """A convolution and, unless it is said otherwise, its Relu; spatial size is kept, or divided by `stride`."""
        kernel = self._normal((filters, channels, size, size), channels * size * size, gain)
        layer = Convolution(kernel, np.zeros(filters, np.float32))
        pads = [size // 2] * 4
        if not relu:
            return layer.write(self.graph, x, name, stride=stride, pads=pads)
        return self.graph.node("Relu", [layer.write(self.graph, x, f"{name}.sum", stride=stride, pads=pads)], name)

    def pool(self, x: str, name: str, size: int, stride: int) -> str:
        """The maximum over windows; half as many positions for a stride of 2."""
        pads = [(size - 1) // 2] * 4 if stride == 1 or size == 3 else [0] * 4
        return self.graph.node("MaxPool", [x], name, kernel_shape=[size, size], strides=[stride, stride], pads=pads)

    def dense(self, x: str, features: int, outputs: int, name: str) -> str:
        weight = self.graph.weight(f"{name}.weight", self._normal((features, outputs), features))
        bias = self.graph.weight(f"{name}.bias", np.zeros(outputs, np.float32))
        return self.graph.node("Gemm", [x, weight, bias], name)

    def classified(self, x: str, channels: int, classes: int) -> ModelProto:
        """The whole network: averaged over positions as `pool`, `logits`, and probabilities."""
        pooled = self.graph.node("GlobalAveragePool", [x], "pool")
        logits = self.dense(self.graph.node("Flatten", [pooled], "flat"), channels, classes, "logits")
        probabilities = self.graph.node("Softmax", [logits], "probabilities")
        return self.graph.model({"input": ["N", 3, 224, 224]}, {probabilities: ["N", classes]})

    def _normal(self, shape: tuple[int, ...], fan_in: int, gain: float = 1.0) -> NDArray[np.float32]:
        return self._rng.normal(0, gain * np.sqrt(2 / fan_in), shape).astype(np.float32)
