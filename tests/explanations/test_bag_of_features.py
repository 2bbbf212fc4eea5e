"""A bag of local features is exact for models that are one, and withheld for all others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from caveat_worker.engine.base.arrays import Float32Array
from caveat_worker.engine.explanations import explanation
from caveat_worker.engine.explanations.attributed import Attributed
from tests.engine.nets import Net
from tests.explanations.glyphs import FIELD, FILTERS, SIDE, pictures, share_on_glyph
from tests.explanations.models import around_noise, opened


def bag(runs: Any, x: Any, layer: str, **options: Any) -> Attributed:
    one = explanation("bag_of_features")
    return one.run(runs, x, one.entry.options(layer=layer, **options))


def network(pool: str = "GlobalAveragePool", convolutions: int = 1, classes: int = 3) -> tuple[bytes, str]:
    """Convolutions of 3 x 3 with Relu, a pool over all positions, and a dense layer; and the last Relu's name."""
    net, x, channels = Net(2), "x", 2
    for _ in range(convolutions):
        x, channels = net.op("Relu", net.conv(x, channels, 6)), 6
    return net.model(("n", 2, 9, 7), net.dense(net.op("Flatten", net.op(pool, x)), 6, classes)), x


@pytest.mark.parametrize("target", [{"index": 1}, {"index": 2, "versus": 0}])
def test_evidence_is_the_head_at_each_place_and_its_mean_is_the_score(target: dict[str, int]) -> None:
    model, seen = network()
    runs, x = around_noise(model, n=2, **target)
    found = bag(runs, x, seen)
    assert found.withheld is None
    weights = {name: value.const_value.numpy() for name, value in runs.opened.model.ir.graph.initializers.items()}
    w, b = weights["w2"].astype(float), weights["w3"].astype(float)
    scores = np.einsum("kc,nchw->nkhw", w, runs.activations(x, seen).astype(float)) + b[:, None, None]
    expected = scores[:, target["index"]] - (scores[:, target["versus"]] if "versus" in target else 0)
    assert found.values * 9 * 7 == pytest.approx(expected, abs=1e-5)
    assert found.values.sum((1, 2)) == pytest.approx(runs.scores(x), rel=1e-5)


@pytest.mark.parametrize(("pool", "scale"), [("GlobalMaxPool", "logit"), ("GlobalAveragePool", "probability")])
def test_a_score_that_is_not_the_mean_is_withheld(pool: str, scale: str) -> None:
    model, seen = network(pool)
    runs, x = around_noise(model, scale=scale)
    found = bag(runs, x, seen)
    assert found.withheld is not None
    assert "is not the mean of what the places" in found.withheld


def test_a_layer_whose_places_see_too_much_is_withheld_before_anything_is_run() -> None:
    model, seen = network(convolutions=3)
    runs, x = around_noise(model)
    found = bag(runs, x, seen)
    assert found.withheld is not None
    assert "sees 100% of the input's longer side" in found.withheld
    assert found.passes == 2


def test_no_more_passes_than_the_price() -> None:
    model, seen = network()
    runs, x = around_noise(model)
    one = explanation("bag_of_features")
    assert bag(runs, x, seen).passes == one.cost(one.entry.options(layer=seen), {seen: (6, 9, 7)})


def mean_of_filters(draw: int = 41) -> tuple[Any, str, float]:
    """The opened model of filters of 5 x 5 and their mean responses, fitted to glyphs, and its accuracy on others."""
    filters = np.random.default_rng(draw).standard_normal((FILTERS, 1, FIELD, FIELD)).astype(np.float32)
    threshold = np.full(FILTERS, -4, np.float32)

    def responses(x: Float32Array) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(x[:, 0], (FIELD, FIELD), axis=(1, 2))
        a = np.einsum("nhwij,fij->nfhw", windows, filters[:, 0]) + threshold[:, None, None]
        return np.asarray(np.maximum(a, 0).mean((2, 3)))

    x, _, y = pictures(400, 100 + draw)
    fitted = LogisticRegression(max_iter=5000, C=1e4).fit(responses(x), y)
    others, _, truth = pictures(200, 200 + draw)
    net = Net(0)
    seen = net.op("Relu", net.op("Conv", "x", net.constant(filters), net.constant(threshold)))
    weights, bias = (np.concatenate([-part, part]) for part in (fitted.coef_, fitted.intercept_))
    mean = net.op("Flatten", net.op("GlobalAveragePool", seen))
    scores = net.op("Gemm", mean, net.constant(weights), net.constant(bias), transB=1)
    one = opened(net.model(("n", 1, SIDE, SIDE), scores), index=1)
    return one, seen, float(fitted.score(responses(others), truth))


def test_a_planted_glyph_is_where_the_evidence_is() -> None:
    model, seen, accuracy = mean_of_filters()
    assert accuracy > 0.95
    x, there, y = pictures(12, seed=341)
    shares = []
    for row in np.flatnonzero(y):
        runs, picture = model.around({"x": x[[row]]})
        found = bag(runs, picture, seen)
        assert found.withheld is None
        wide = np.zeros((SIDE, SIDE))
        wide[2:-2, 2:-2] = found.values[0] - np.median(found.values[0])  # a place stands for the middle of its field
        shares.append(share_on_glyph(wide, there[row]))
    assert np.median(shares) > 0.5
