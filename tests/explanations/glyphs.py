"""A model that one glyph decides: random filters of 5 x 5, their largest responses, and a logistic regression on those.

By construction it sees 5 x 5 pixels at a time, and its pictures differ in nothing but the glyph.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from caveat_worker.engine.explanations.model_runs import OpenModel
from tests.engine.nets import Net
from tests.explanations.models import opened

SIDE, FIELD, FILTERS = 24, 5, 48
GLYPH = np.array([[0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0]], np.float32)


def pictures(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
    """Noise [n, 1, side, side] with a glyph in every second one, where it is [n, side, side], and whether [n]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.2, (count, 1, SIDE, SIDE)).astype(np.float32)
    there, y = np.zeros((count, SIDE, SIDE), bool), np.arange(count) % 2
    for row in np.flatnonzero(y):
        top, left = rng.integers(0, SIDE - FIELD, 2)
        x[row, 0, top : top + FIELD, left : left + FIELD] += GLYPH
        there[row, top : top + FIELD, left : left + FIELD] = True
    return x, there, y


@cache
def model(draw: int) -> tuple[OpenModel, float]:
    """The opened model, for the glyph's class, and its accuracy on pictures that it was not fitted on."""
    filters = np.random.default_rng(draw).standard_normal((FILTERS, 1, FIELD, FIELD)).astype(np.float32)

    def responses(x: NDArray[np.float32]) -> NDArray[np.float32]:
        windows = np.lib.stride_tricks.sliding_window_view(x[:, 0], (FIELD, FIELD), axis=(1, 2))
        return np.maximum(np.einsum("nhwij,fij->nfhw", windows, filters[:, 0]), 0).max((2, 3))

    x, _, y = pictures(400, 100 + draw)
    fitted = LogisticRegression(max_iter=2000).fit(responses(x), y)
    others, _, truth = pictures(200, 200 + draw)
    net = Net(0)
    seen = net.op("Relu", net.op("Conv", "x", net.constant(filters)))
    top = net.op("Flatten", net.op("GlobalMaxPool", seen))
    weights = np.concatenate([-fitted.coef_, fitted.coef_])
    biases = np.concatenate([-fitted.intercept_, fitted.intercept_])
    scores = net.op("Gemm", top, net.constant(weights), net.constant(biases), transB=1)
    one = opened(net.model(("n", 1, SIDE, SIDE), scores), index=1)
    return one, float(fitted.score(responses(others), truth))


def share_on_glyph(values: NDArray[np.float64], there: NDArray[np.bool_]) -> float:
    """Of the mass that speaks for the class in the 5 % of pixels that have most of it, the share on the glyph."""
    positive = np.maximum(values, 0)
    top = positive >= np.quantile(positive, 0.95)
    return float((positive * top * there).sum() / max((positive * top).sum(), 1e-12))
