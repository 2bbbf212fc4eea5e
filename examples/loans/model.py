"""A small network that decides like the recorded lenders, and its ONNX form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from examples.graph import Graph
from examples.perceptron import Perceptron, trained

HIDDEN = (16, 8)
"""Two hidden layers: after a single one the logit would be linear, with the same gradient for everyone."""

PENALTY = 10.0
SEED = 20

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LoanModel:
    """A perceptron of standardised features: `(features - mean) / scale`."""

    mean: Array
    scale: Array
    perceptron: Perceptron


def train(features: Array, approved: Array) -> LoanModel:
    """Fits `features` [n, d] to `approved` [n]; the same model whatever the number of threads."""
    scaler = StandardScaler().fit(features)
    classifier = MLPClassifier(
        HIDDEN, activation="tanh", solver="lbfgs", alpha=PENALTY, max_iter=5000, random_state=SEED
    )
    with threadpool_limits(1):
        classifier.fit(scaler.transform(features), approved)
    return LoanModel(scaler.mean_, scaler.scale_, trained(classifier))


def to_onnx(model: LoanModel) -> ModelProto:
    """`applicant` [N, d], as recorded → `logit` and `probability` [N, 1]; layers are `hidden1` and `hidden2`."""
    graph = Graph("loans")
    mean = graph.weight("mean", model.mean.astype(np.float32))
    scale = graph.weight("scale", model.scale.astype(np.float32))
    x = graph.node("Div", [graph.node("Sub", ["applicant", mean], "centred"), scale], "standardised")
    graph.node("Sigmoid", [model.perceptron.write(graph, x, "logit")], "probability")
    return graph.model({"applicant": ["N", len(model.mean)]}, {"logit": ["N", 1], "probability": ["N", 1]})
