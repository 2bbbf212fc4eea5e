"""Ordinary networks with seeded weights, whose gradients are right and which a gradient check therefore has to pass.

They have what makes finite differences hard: Relu and MaxPool over thousands of numbers, units that are dead or always
on, inputs that are mostly zero, and layers of very different scales.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.engine.nets import Net

Biases = str
"""How biases are drawn: `small`, `zero`, `large` (units dead or always on) or `negative` (most units dead)."""


class Ordinary(Net):
    """A network whose biases are of one kind."""

    def __init__(self, seed: int, biases: Biases = "small") -> None:
        super().__init__(seed)
        self.biases = biases

    def bias(self, m: int) -> str:
        drawn = self.rng.standard_normal(m)
        kinds = {"small": drawn * 0.1, "zero": drawn * 0, "large": drawn * 3, "negative": -np.abs(drawn)}
        return self.constant(kinds[self.biases])

    def conv(self, x: str, c: int, m: int, k: int = 3, stride: int = 1, group: int = 1, pads: Any = None) -> str:
        weights = self.weight(m, c // group, k, k, gain=np.sqrt(2))
        return str(
            self.op("Conv", x, weights, self.bias(m), strides=[stride] * 2, group=group, pads=pads or [k // 2] * 4)
        )

    def dense(self, x: str, d: int, m: int) -> str:
        return str(self.op("Gemm", x, self.weight(m, d, gain=np.sqrt(2)), self.bias(m), transB=1))

    def project(self, x: str, d: int, m: int) -> str:
        weights = self.constant(self.rng.standard_normal((d, m)) / np.sqrt(d))
        return str(self.op("Add", self.op("MatMul", x, weights), self.bias(m)))

    def pool(self, x: str, k: int = 2, stride: int = 2, pads: int = 0) -> str:
        return str(self.op("MaxPool", x, kernel_shape=[k, k], strides=[stride] * 2, pads=[pads] * 4))

    def layer_norm(self, x: str, d: int) -> str:
        return str(self.op("LayerNormalization", x, self.constant(np.ones(d)), self.constant(np.zeros(d))))

    def activated(self, x: str, kind: str) -> str:
        more: dict[str, Any] = {"LeakyRelu": {"alpha": 0.1}}.get(kind, {})
        given = [self.constant(0.0), self.constant(6.0)] if kind == "Clip" else []
        return str(self.op(kind, x, *given, **more))


def cnn(net: Ordinary, *, size: int, widths: tuple[int, ...], kind: str = "Relu", norm: bool = False) -> bytes:
    """Blocks of a convolution, an activation and max pooling, and two dense layers, as in most tutorials."""
    x, c = "x", 3
    for m in widths:
        x = net.conv(x, c, m)
        x = net.norm(x, m) if norm else x
        x, c, size = net.pool(net.activated(x, kind)), m, size // 2
    x = net.activated(net.dense(net.op("Flatten", x), c * size * size, 64), kind)
    return net.model(("n", 3, size << len(widths), size << len(widths)), net.dense(x, 64, 10))


def vgg(net: Ordinary, *, size: int, width: int) -> bytes:
    """Two convolutions before each max pooling, then the mean over positions."""
    x, c = "x", 3
    for m in (width, 2 * width, 4 * width):
        x = net.activated(net.conv(x, c, m), "Relu")
        x, c = net.pool(net.activated(net.conv(x, m, m), "Relu")), m
    return net.model(("n", 3, size, size), net.dense(net.op("Flatten", net.op("GlobalAveragePool", x)), c, 10))


def residual(net: Ordinary, *, size: int, width: int, blocks: int) -> bytes:
    """A stem with overlapping max pooling, and blocks that are added to their input, with batch normalisation."""
    x = net.activated(net.norm(net.conv("x", 3, width, k=7, stride=2), width), "Relu")
    x = net.pool(x, 3, 2, 1)
    for _ in range(blocks):
        y = net.activated(net.norm(net.conv(x, width, width), width), "Relu")
        x = net.activated(net.op("Add", net.norm(net.conv(y, width, width), width), x), "Relu")
    return net.model(("n", 3, size, size), net.dense(net.op("Flatten", net.op("GlobalMaxPool", x)), width, 10))


def mobile(net: Ordinary, *, size: int, kind: str) -> bytes:
    """Depthwise convolutions with Clip or HardSwish between them, and squeeze and excitation."""
    x = net.activated(net.conv("x", 3, 8, stride=2), kind)
    for _ in range(2):
        y = net.activated(net.conv(x, 8, 24, k=1), kind)
        y = net.activated(net.conv(y, 24, 24, group=24), kind)
        gate = net.activated(net.conv(net.op("GlobalAveragePool", y), 24, 6, k=1), "Relu")
        y = net.op("Mul", y, net.op("HardSigmoid", net.conv(gate, 6, 24, k=1)))
        x = net.op("Add", net.conv(y, 24, 8, k=1), x)
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.model(("n", 3, size, size), net.dense(x, 8, 10))


def mlp(net: Ordinary, *, inputs: int, widths: tuple[int, ...], kind: str = "Relu") -> bytes:
    """Dense layers."""
    x, d = "x", inputs
    for m in widths:
        x, d = net.activated(net.dense(x, d, m), kind), m
    return net.model(("n", inputs), net.op("Softmax", net.dense(x, d, 5)))


def maxout(net: Ordinary, *, inputs: int, width: int) -> bytes:
    """The larger of two dense layers, and the smallest differences."""
    x = "x"
    for d in (inputs, width):
        x = net.op("Max", net.dense(x, d, width), net.dense(x, d, width))
    x = net.op("Min", x, net.op("Abs", net.dense(x, width, width)))
    return net.model(("n", inputs), net.dense(x, width, 5))


def transformer(net: Ordinary, *, length: int, width: int, blocks: int, kind: str) -> bytes:
    """Softmax attention with several heads, layer normalisation and a perceptron for each position."""
    x = _encoded(net, net.project("x", 12, width), length=length, width=width, blocks=blocks, kind=kind)
    x = net.op("ReduceMax" if kind == "Relu" else "ReduceMean", x, net.constant([1], np.int64), keepdims=0)
    return net.model(("n", length, 12), net.dense(x, width, 5))


def vision_transformer(net: Ordinary, *, width: int = 192, blocks: int = 4) -> bytes:
    """Patches of 16 pixels of a picture of 224, embedded by a convolution, then a transformer's encoder."""
    x = net.op(
        "Reshape", net.conv("x", 3, width, k=16, stride=16, pads=[0] * 4), net.constant([0, width, -1], np.int64)
    )
    x = _encoded(net, net.op("Transpose", x, perm=[0, 2, 1]), length=196, width=width, blocks=blocks, kind="Gelu")
    x = net.op("ReduceMean", x, net.constant([1], np.int64), keepdims=0)
    return net.model(("n", 3, 224, 224), net.dense(x, width, 1000))


def _encoded(net: Ordinary, x: str, *, length: int, width: int, blocks: int, kind: str) -> str:
    """The encoder of a transformer, with two heads and the normalisation before each part."""
    heads = 2
    apart = net.constant([0, length, heads, width // heads], np.int64)
    together = net.constant([0, length, width], np.int64)
    for _ in range(blocks):
        y = net.layer_norm(x, width)
        q, k, v = (
            net.op("Transpose", net.op("Reshape", net.project(y, width, width), apart), perm=perm)
            for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        scores = net.op("Mul", net.op("MatMul", q, k), net.constant(np.sqrt(heads / width)))
        mixed = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores), v), perm=[0, 2, 1, 3])
        x = net.op("Add", x, net.project(net.op("Reshape", mixed, together), width, width))
        inner = net.project(net.layer_norm(x, width), width, 2 * width)
        if kind == "Gelu":
            half = net.op("Erf", net.op("Mul", inner, net.constant(np.sqrt(0.5))))
            inner = net.op("Mul", net.op("Mul", inner, net.constant(0.5)), net.op("Add", half, net.constant(1.0)))
        else:
            inner = net.activated(inner, kind)
        x = net.op("Add", x, net.project(inner, 2 * width, width))
    return x


def recurrent(net: Ordinary, *, cell: str, length: int, width: int) -> bytes:
    """A recurrent cell over a sequence, its last state, and a dense layer with a Relu."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[cell]
    along = net.op("Transpose", "x", perm=[1, 0, 2])
    weights = [net.constant(net.rng.standard_normal((1, gates * width, d)) / np.sqrt(d)) for d in (12, width)]
    more: dict[str, Any] = {"linear_before_reset": 1} if cell == "GRU" else {}
    biases = net.constant(net.rng.standard_normal((1, 2 * gates * width)) * 0.1)
    outputs = net.op(cell, along, *weights, biases, outputs=2, hidden_size=width, **more)
    last = net.op("Squeeze", outputs[1], net.constant([0], np.int64))
    return net.model(("n", length, 12), net.dense(net.activated(net.dense(last, width, 32), "Relu"), 32, 5))


@dataclass(frozen=True)
class Case:
    """A network, and the examples at which its gradients are checked."""

    name: str
    content: bytes
    x: NDArray[np.float32]


Family = Callable[[Ordinary, int], bytes]
_KINDS = ("Relu", "LeakyRelu", "Clip", "Elu")
FAMILIES: dict[str, tuple[tuple[int, ...], Callable[[Ordinary, int], bytes]]] = {
    "cnn, one block": ((3, 16, 16), lambda net, i: cnn(net, size=16, widths=(16,))),
    "cnn, two blocks": ((3, 28, 28), lambda net, i: cnn(net, size=28, widths=(8, 16))),
    "cnn, three blocks": ((3, 32, 32), lambda net, i: cnn(net, size=32, widths=(16, 32, 32))),
    "cnn, four blocks": ((3, 32, 32), lambda net, i: cnn(net, size=32, widths=(8, 16, 32, 32))),
    "cnn with normalisation": ((3, 32, 32), lambda net, i: cnn(net, size=32, widths=(16, 32), norm=True)),
    "cnn, other activations": ((3, 24, 24), lambda net, i: cnn(net, size=24, widths=(8, 16), kind=_KINDS[i % 4])),
    "cnn, wide": ((3, 40, 40), lambda net, i: cnn(net, size=40, widths=(24, 24))),
    "vgg": ((3, 32, 32), lambda net, i: vgg(net, size=32, width=8)),
    "residual": ((3, 48, 48), lambda net, i: residual(net, size=48, width=16, blocks=1 + i % 4)),
    "mobile": ((3, 32, 32), lambda net, i: mobile(net, size=32, kind=("Clip", "HardSwish", "Relu")[i % 3])),
    "mlp": ((20,), lambda net, i: mlp(net, inputs=20, widths=(64,) * (1 + i % 5))),
    "mlp, other activations": ((20,), lambda net, i: mlp(net, inputs=20, widths=(64, 32), kind=_KINDS[i % 4])),
    "mlp, wide": ((30,), lambda net, i: mlp(net, inputs=30, widths=(12_000, 16))),
    "maxout": ((20,), lambda net, i: maxout(net, inputs=20, width=48)),
    "transformer": (
        (10, 12),
        lambda net, i: transformer(net, length=10, width=24, blocks=1 + i % 3, kind=("Gelu", "Relu")[i % 2]),
    ),
    "recurrent": ((8, 12), lambda net, i: recurrent(net, cell=("LSTM", "GRU", "RNN")[i % 3], length=8, width=16)),
}
_BIASES = ("small", "zero", "large", "negative")
_INPUTS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], NDArray[Any]]] = {
    "noise": lambda rng, shape: rng.standard_normal(shape),
    "pixels of 0 to 1": lambda rng, shape: rng.random(shape),
    "mostly zero": lambda rng, shape: rng.random(shape) * (rng.random(shape) < 0.15),
}


def network(i: int) -> Case:
    """The i-th network: families, kinds of biases and kinds of inputs take turns."""
    family = list(FAMILIES)[i % len(FAMILIES)]
    turn = i // len(FAMILIES)
    biases, inputs = _BIASES[turn % len(_BIASES)], list(_INPUTS)[turn % len(_INPUTS)]
    shape, make = FAMILIES[family]
    x = _INPUTS[inputs](np.random.default_rng([7, i]), (4, *shape))
    content = make(Ordinary(1000 + i, biases), turn)
    return Case(f"{i}: {family}, {biases} biases, {inputs}", content, x.astype(np.float32))
