"""Two perceptrons of scikit-learn on its handwritten digits, as ONNX: one trained on labels, one on shuffled labels."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
from numpy.typing import NDArray
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from caveat_worker.engine.explanations.model_runs import OpenModel
from tests.explanations.models import opened


@cache
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pictures [1797, 64] with numbers of about 1, and their labels."""
    found = load_digits()
    return (found.data / 8).astype(np.float32), found.target


@cache
def perceptron(*, shuffled: bool) -> tuple[OpenModel, float]:
    """The opened model for the digit 3, and its accuracy on its own labels."""
    x, y = digits()
    labels = np.random.default_rng(0).permutation(y) if shuffled else y
    model = MLPClassifier((64,), max_iter=60, random_state=0, n_iter_no_change=60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, labels)
    written = to_onnx(model, x[:1], options={"zipmap": False}, target_opset=18)
    return opened(written.SerializeToString(), output="probabilities", index=3), float(model.score(x, y))
