"""Saliency and gradient x input, against formulas and the identity of piecewise linear models."""

from __future__ import annotations

import numpy as np
import pytest

from caveat_spec.explanations import OfLayer
from caveat_worker.engine.explanations import explanation
from tests.engine.nets import Net, resnet
from tests.explanations.literal import LINEAR, Literal, W
from tests.explanations.models import around_noise

X = np.array([[1.0, 2.0, -3.0, 4.0]])


def test_the_saliency_of_a_linear_model_is_the_size_of_its_weights() -> None:
    found = explanation("saliency").run(Literal(*LINEAR), X, OfLayer())
    assert found.values[0] == pytest.approx(np.abs(W))
    assert found.withheld is None


def test_gradient_x_input_of_a_linear_model_is_the_share_of_each_input() -> None:
    found = explanation("gradient_x_input").run(Literal(*LINEAR), X, OfLayer())
    assert found.values[0] == pytest.approx(W * X[0])
    assert found.rest == pytest.approx([3])
    assert found.values.sum(1) + found.rest == pytest.approx(found.total)


def test_a_picture_gets_one_number_for_each_pixel() -> None:
    runs, x = around_noise(resnet(), n=2)
    for name in ("saliency", "gradient_x_input"):
        assert explanation(name).run(runs, x, OfLayer()).values.shape == (2, 32, 32)


def test_a_target_behind_a_relu_that_is_off_is_said_to_be_flat() -> None:
    net = Net(0)
    scores = net.op("Relu", net.op("Sub", net.op("Relu", net.dense("x", 4, 3)), net.constant(50.0)))
    runs, x = around_noise(net.model(("n", 4), scores))
    found = explanation("saliency").run(runs, x, OfLayer())
    assert "gradient is zero everywhere" in found.withheld
