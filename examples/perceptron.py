"""Dense layers, as scikit-learn trains them, in an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier

from examples.graph import Graph

Array = NDArray[np.float64]
Activation = Literal["tanh", "relu"]

OPERATORS: dict[Activation, str] = {"tanh": "Tanh", "relu": "Relu"}


@dataclass(frozen=True)
class Perceptron:
    """Dense layers with `activation` after all but the last: `weights[i]` [inputs, outputs], `biases[i]` [outputs]."""

    weights: list[Array]
    biases: list[Array]
    activation: Activation

    def write(self, graph: Graph, x: str, output: str) -> str:
        """Appends the layers of `x` [N, inputs] as `hidden1`, `hidden2` and so on, and the last as `output`."""
        *hidden, last = zip(self.weights, self.biases, strict=True)
        for number, (weight, bias) in enumerate(hidden, start=1):
            linear = _dense(graph, x, weight, bias, f"hidden{number}/linear")
            x = graph.node(OPERATORS[self.activation], [linear], f"hidden{number}")
        return _dense(graph, x, *last, output)


def trained(classifier: MLPClassifier) -> Perceptron:
    """The layers of a fitted classifier, up to its logits."""
    return Perceptron(classifier.coefs_, classifier.intercepts_, classifier.activation)


def _dense(graph: Graph, x: str, weight: Array, bias: Array, name: str) -> str:
    kernel = graph.weight(f"{name}.weight", weight.astype(np.float32))
    offset = graph.weight(f"{name}.bias", bias.astype(np.float32))
    return graph.node("Gemm", [x, kernel, offset], name)
