"""The networks that the first audits run on: gradients at a few layers against torch's autograd in float64.

GoogLeNet has seeded random weights, so its maxima tie within float32; the tight comparison is made with smooth
activations, and the network as it is has to agree in direction.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from caveat_worker.engine.autodiff.differentiate import differentiate
from caveat_worker.engine.autodiff.layers import choose_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.onnx.session import open_session
from examples.watermark.efficientnet import efficientnet_lite0
from examples.watermark.squeezenet import squeezenet
from tests.oracle.autograd import gradients
from tests.oracle.light import light

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def perceptron() -> bytes:
    """A classifier of scikit-learn, exported by skl2onnx."""
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPClassifier

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 12)).astype(np.float32), rng.integers(0, 3, 300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = MLPClassifier((16, 8), activation="tanh", max_iter=30, random_state=0).fit(x, y)
    return bytes(to_onnx(fitted, x[:1], options={"zipmap": False}, target_opset=18).SerializeToString())


NETWORKS: dict[str, Callable[[], object]] = {
    "EfficientNet-lite0": efficientnet_lite0,
    "SqueezeNet 1.1": squeezenet,
    "ResNet-50": lambda: light("resnet50", smooth=False),
    "GoogLeNet": lambda: light("inception_v1", smooth=False),
    "GoogLeNet, smooth": lambda: light("inception_v1", smooth=True),
    "perceptron": perceptron,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_agree_with_autograd(name: str, tmp_path: Path) -> None:
    made = NETWORKS[name]()
    content = made.SerializeToString() if isinstance(made, onnx.ModelProto) else made
    model = load(content)  # type: ignore[arg-type]
    output = "probabilities" if name == "perceptron" else None
    target = Target("t", output=output, index=1)
    layers = list(choose_layers(model, target))
    assert layers
    shape = [2, *(size if isinstance(size, int) else 224 for size in model.inputs[0].shape[1:])]
    feeds = {model.inputs[0].name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    ours = open_session(differentiate(model, layers, [target]), threads=1).run(feeds)
    theirs = gradients(model.ir, feeds, layers, resolve_target(model, target).tensor, 1)
    for layer in layers:
        a, b = ours[f"gradient/t/{layer}"].astype(np.float64).ravel(), theirs[layer].numpy().ravel()
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.9999
        assert name == "GoogLeNet" or np.quantile(np.abs(a - b), 0.99) / np.abs(b).max() < 1e-4
