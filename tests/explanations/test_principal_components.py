"""Norms and principal components of a layer's places, against scikit-learn and sums written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from sklearn.decomposition import PCA

from caveat_worker.engine.explanations import explanation
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.principal_components import components_of
from tests.engine.nets import Net
from tests.explanations.models import opened

SIDE, CHANNELS = 5, 8


def layer(x: np.ndarray) -> Any:
    """Runs of a model whose layer `seen` is its input."""
    net = Net(0)
    net.nodes.append(helper.make_node("Identity", ["x"], ["seen"]))
    scores = net.op("ReduceMean", net.op("Flatten", "seen"), net.constant([1], np.int64), keepdims=1)
    runs, seen = opened(net.model(("n", *x.shape[1:]), scores), index=None).around({"x": x})
    return runs, seen


def ask(name: str, x: np.ndarray, **options: Any) -> Attributed:
    one = explanation(name)
    runs, seen = layer(x)
    return one.run(runs, seen, one.entry.options(layer="seen", **options))


def places(n: int = 1, seed: int = 3) -> np.ndarray:
    """Places [n, channels, side, side] that differ along some directions more than along others."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, CHANNELS, SIDE, SIDE)) * (0.5 ** np.arange(CHANNELS))[:, None, None]
    return (np.einsum("cd,ndyx->ncyx", rng.normal(size=(CHANNELS, CHANNELS)), mixed) + 2).astype(np.float32)


def test_components_are_those_of_scikit_learn() -> None:
    x = places()
    found = ask("principal_components", x)
    flat = x[0].reshape(CHANNELS, -1).T.astype(float)
    peer = PCA(3, svd_solver="full").fit(flat)
    assert found.values[0] == pytest.approx(peer.explained_variance_ratio_, abs=1e-6)
    assert found.rest is not None
    assert found.values.sum() + found.rest.sum() == pytest.approx(1, abs=1e-9)
    for number, (own, its) in enumerate(zip(found.parts["directions"][0], peer.components_, strict=True)):
        sign = np.sign(own @ its)
        assert own == pytest.approx(sign * its, abs=1e-5)
        assert own[np.abs(own).argmax()] > 0, "a sign of its own, so that colours do not depend on a library"
        scores = found.parts["maps"][0][number].ravel()
        assert scores == pytest.approx(sign * (flat - flat.mean(0)) @ its, abs=1e-4)


def test_more_places_than_channels_give_the_same_as_fewer() -> None:
    rows = np.random.default_rng(5).normal(size=(40, 6)) * [9, 5, 3, 1, 1, 1]
    many, few = components_of(rows), components_of(np.concatenate([rows, np.zeros((0, 6))])[:6])
    assert many.shares[0] > many.shares[1] > many.shares[2] > 0
    assert np.abs(many.directions @ many.directions.T - np.eye(3)).max() < 1e-12
    wide = components_of(rows[:6].T @ rows[:6])
    assert np.abs(wide.directions @ wide.directions.T - np.eye(3)).max() < 1e-9
    assert few.shares.sum() <= 1 + 1e-12


def test_places_that_do_not_differ_have_no_components() -> None:
    found = ask("principal_components", np.ones((1, CHANNELS, SIDE, SIDE), np.float32))
    assert not found.values.any()
    assert not found.parts["maps"].any()
    along_one = np.zeros((1, CHANNELS, SIDE, SIDE), np.float32)
    along_one[0, 2] = np.arange(SIDE)
    found = ask("principal_components", along_one)
    assert found.values[0] == pytest.approx([1, 0, 0])
    assert found.parts["directions"][0][0] == pytest.approx(np.eye(CHANNELS)[2])


def test_a_norm_is_the_root_of_the_squares_of_channels() -> None:
    x = places(2)
    assert ask("activation_norm", x).values == pytest.approx(np.sqrt((x.astype(float) ** 2).sum(1)), rel=1e-6)
    tokens = x.reshape(2, CHANNELS, -1).swapaxes(1, 2).copy()
    assert ask("activation_norm", tokens).values == pytest.approx(np.sqrt((tokens.astype(float) ** 2).sum(2)), rel=1e-6)
