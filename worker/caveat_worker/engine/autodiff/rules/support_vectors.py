# mypy: allow-untyped-defs, allow-untyped-calls
"""ai.onnx.ml: support vector machines as formulas in standard operators (Boser et al. 1992)."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from caveat_worker.engine.autodiff.builder import op
from caveat_worker.engine.autodiff.rules.learned import ML, floats, numbers, of_two
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator, lowered


@lowered("SVMRegressor", domain=ML)
def svm_regressor(x, *, coefficients, kernel_params=None, kernel_type, n_supports, one_class, post_transform, rho,
                  support_vectors=None):  # fmt: skip
    """Σᵢ cᵢ k(x, vᵢ) + ρ, or of a linear one w·x + ρ."""
    if post_transform != "NONE" or one_class or not n_supports:
        raise UnsupportedOperator("its numbers become others, or it has no support vectors")
    kernel = _kernel(x, np.reshape(support_vectors, (n_supports, -1)), kernel_type, kernel_params)
    return op.Gemm(kernel, numbers(coefficients)[:, None], numbers(rho[:1]))


@lowered("SVMClassifier", domain=ML)
def svm_classifier(x, *, classlabels_ints=None, classlabels_strings=None, coefficients, kernel_params=None, kernel_type,
                   post_transform, prob_a=None, prob_b=None, rho, support_vectors=None,
                   vectors_per_class=None):  # fmt: skip
    """A score for each pair of classes, or the probabilities of two (Platt 1999); the operator yields the label."""
    classes = len(vectors_per_class or ())
    if post_transform != "NONE" or classes < 2 or (prob_a and classes > 2):
        raise UnsupportedOperator("its probabilities of several classes have no formula, or it has no support vectors")
    vectors = np.reshape(support_vectors, (sum(vectors_per_class), -1))
    kernel = _kernel(x, vectors, kernel_type, kernel_params)
    weights = _of_pairs(np.reshape(coefficients, (classes - 1, -1)), vectors_per_class)
    scores = op.Gemm(kernel, weights, numbers(rho))
    if classes > 2:
        return None, scores
    if prob_a:
        scores = scores * float(prob_a[0]) + float(prob_b[0])
    return None, of_two(scores, squashed=bool(prob_a))


def _kernel(x, vectors, kind, params):
    """k(x, v) of each row of x with each support vector [n, vectors]."""
    gamma, offset, degree = (params or (0, 0, 0))[:3]
    middle = vectors.mean(0) if kind == "RBF" else 0.0  # of which distances do not know
    vectors, x = numbers(vectors - middle), floats(x) - numbers(middle)
    products = op.MatMul(x, np.ascontiguousarray(vectors.T))
    match kind:
        case "LINEAR":
            return products
        case "POLY":
            return op.Pow(products * gamma + offset, float(degree))
        case "SIGMOID":
            return op.Tanh(products * gamma + offset)
        case "RBF":
            return op.Exp((2 * products - op.ReduceSum(x * x, [1]) - numbers((vectors**2).sum(1))) * gamma)
    raise UnsupportedOperator(f"its kernel is {kind}")


def _of_pairs(coefficients, counts):
    """What each support vector adds to the score of each pair of classes [vectors, pairs]."""
    bounds = np.cumsum([0, *counts])
    pairs = list(combinations(range(len(counts)), 2))
    found = np.zeros((bounds[-1], len(pairs)), np.float32)
    for number, (one, other) in enumerate(pairs):
        for own, against in ((one, other - 1), (other, one)):
            rows = slice(bounds[own], bounds[own + 1])
            found[rows, number] = coefficients[against, rows]
    return found
