"""The networks that are timed: GoogLeNet, ResNet-50, two transformers and a perceptron, with seeded random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from examples.graph import Convolution, Graph

GOOGLENET_LAYERS = ("inception4c", "pool")
"""512 x 14 x 14 = 100,352 features, and 1,024."""
RESNET_LAYER = "stage3"
"""1,024 x 14 x 14 features."""
WIDTH, HEADS = 768, 12
"""Of the transformers."""

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


def vit_base(classes: int = 1000, seed: int = 0) -> ModelProto:
    """A vision transformer of the size of ViT-B/16 at 224 pixels (Dosovitskiy et al. 2021): 86 million weights."""
    net = _Net("vit", seed)
    patches = net.patches("input", 16, WIDTH)
    x = net.graph.node("Transpose", [patches], "tokens", perm=[0, 2, 1])
    return _encoder(net, x, (224 // 16) ** 2, {"input": ["N", 3, 224, 224]}, classes)


def bert_base(tokens: int = 32, words: int = 30_522, seed: int = 0) -> ModelProto:
    """An encoder of the size of BERT-base (Devlin et al. 2019), 110 million weights; its ids come as float32."""
    net = _Net("bert", seed)
    ids = net.graph.node("Cast", ["input"], "ids", to=7)  # int64
    x = net.graph.node("Gather", [net.embedding("words", words), ids], "tokens")
    return _encoder(net, x, tokens, {"input": ["N", tokens]}, 2)


def _encoder(net: _Net, x: str, tokens: int, inputs: Mapping[str, list[Any]], classes: int) -> ModelProto:
    """Twelve blocks of twelve heads over `tokens`, their last mean as `pool`, and a softmax of classes."""
    x = net.graph.node("Add", [x, net.embedding("positions", tokens)], "placed")
    for number in range(1, 13):
        x = net.block(x, tokens, f"block{number}")
    pooled = net.graph.node("ReduceMean", [x, net.sizes("pool.axes", [1])], "pool", keepdims=0)
    probabilities = net.graph.node("Softmax", [net.dense(pooled, WIDTH, classes, "logits")], "probabilities")
    return net.graph.model(dict(inputs), {probabilities: ["N", classes]})


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

    def patches(self, x: str, size: int, width: int) -> str:
        """Squares of a picture as tokens [N, width, tokens]."""
        kernel = self._normal((width, 3, size, size), 3 * size * size, 0.7)
        layer = Convolution(kernel, np.zeros(width, np.float32))
        squares = layer.write(self.graph, x, "patches", stride=size)
        return self.graph.node("Reshape", [squares, self.sizes("patches.shape", [0, width, -1])], "patches.flat")

    def embedding(self, name: str, rows: int) -> str:
        """A vector for each of so many things [rows, width]."""
        return self.graph.weight(name, self._normal((rows, WIDTH), 2))

    def sizes(self, name: str, values: list[int]) -> str:
        """A constant of int64."""
        return self.graph.weight(name, np.array(values, np.int64))

    def block(self, x: str, tokens: int, name: str) -> str:
        """Attention and two dense layers, each behind a normalisation and beside what it adds to (Vaswani et al.)."""
        node, normal = self.graph.node, self.normalised(x, f"{name}.before")
        shape = self.sizes(f"{name}.shape", [0, tokens, HEADS, WIDTH // HEADS])
        heads = [
            node("Transpose", [node("Reshape", [self.linear(normal, WIDTH, WIDTH, f"{name}.{one}"), shape],
                                    f"{name}.{one}.heads")], f"{name}.{one}.turned", perm=order)
            for one, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))
        ]  # fmt: skip
        scale = self.graph.weight(f"{name}.scale", np.float32((WIDTH / HEADS) ** -0.5))
        scores = node("Mul", [node("MatMul", heads[:2], f"{name}.products"), scale], f"{name}.scores")
        seen = node("MatMul", [node("Softmax", [scores], f"{name}.attention", axis=-1), heads[2]], f"{name}.seen")
        turned = node("Transpose", [seen], f"{name}.seen.turned", perm=[0, 2, 1, 3])
        whole = node("Reshape", [turned, self.sizes(f"{name}.whole", [0, tokens, WIDTH])], f"{name}.seen.whole")
        x = node("Add", [x, self.linear(whole, WIDTH, WIDTH, f"{name}.mixed")], f"{name}.attended")
        inner = self.linear(self.normalised(x, f"{name}.between"), WIDTH, 4 * WIDTH, f"{name}.wide")
        inner = node("Gelu", [inner], f"{name}.gelu")
        return node("Add", [x, self.linear(inner, 4 * WIDTH, WIDTH, f"{name}.narrow")], name)

    def normalised(self, x: str, name: str) -> str:
        scale = self.graph.weight(f"{name}.scale", np.ones(WIDTH, np.float32))
        shift = self.graph.weight(f"{name}.shift", np.zeros(WIDTH, np.float32))
        return self.graph.node("LayerNormalization", [x, scale, shift], name, axis=-1)

    def linear(self, x: str, features: int, outputs: int, name: str) -> str:
        """A dense layer over the last of three axes."""
        weight = self.graph.weight(f"{name}.weight", self._normal((features, outputs), features, 0.5))
        bias = self.graph.weight(f"{name}.bias", np.zeros(outputs, np.float32))
        return self.graph.node("Add", [self.graph.node("MatMul", [x, weight], f"{name}.product"), bias], name)

    def classified(self, x: str, channels: int, classes: int) -> ModelProto:
        """The whole network: averaged over positions as `pool`, `logits`, and probabilities."""
        pooled = self.graph.node("GlobalAveragePool", [x], "pool")
        logits = self.dense(self.graph.node("Flatten", [pooled], "flat"), channels, classes, "logits")
        probabilities = self.graph.node("Softmax", [logits], "probabilities")
        return self.graph.model({"input": ["N", 3, 224, 224]}, {probabilities: ["N", classes]})

    def _normal(self, shape: tuple[int, ...], fan_in: int, gain: float = 1.0) -> NDArray[np.float32]:
        return self._rng.normal(0, gain * np.sqrt(2 / fan_in), shape).astype(np.float32)
