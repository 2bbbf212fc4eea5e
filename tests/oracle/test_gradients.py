"""Gradients against torch's autograd and ONNX's own cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caveat_worker.engine.autodiff.differentiate import differentiate
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.onnx.session import open_session
from tests.oracle.autograd import gradients
from tests.oracle.backend import cases, judge
from tests.oracle.exports import exported
from tests.oracle.light import light

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TARGET = Target("t", index=0)


def compared(model: Model, feeds: dict[str, Any], step: int) -> tuple[list[float], list[float]]:
    """Relative L2 errors and cosines to torch in float64, over every step-th layer and the input."""
    layers = [layer.tensor for layer in list_layers(model, TARGET) if layer.auditable][::step]
    layers.append(model.inputs[0].name)
    ours = open_session(differentiate(model, layers, [TARGET]), threads=1).run(feeds)
    theirs = gradients(model.ir, feeds, layers, resolve_target(model, TARGET).tensor, 0)
    pairs = [(ours[f"gradient/t/{n}"].astype(np.float64).ravel(), theirs[n].numpy().ravel()) for n in layers]
    errors = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs]
    return errors, [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairs]


@pytest.mark.parametrize("name", ["squeezenet", "resnet50", "inception_v1", "shufflenet", "densenet121"])
def test_light_architectures_agree_with_torch(name: str) -> None:
    image = {}
    for smooth in (True, False):
        model = load(light(name, smooth=smooth))
        image = {model.inputs[0].name: np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)}
        errors, cosines = compared(model, image, 8)
        assert min(cosines) > 0.9999
        assert not smooth or max(errors) < 1e-4


def test_exports_agree_with_torch_and_with_differences() -> None:
    merged = []
    for name, content, feeds, target, cosine in exported():
        model = load(content)
        layers = [layer.tensor for layer in list_layers(model, target) if layer.auditable]
        checks = check_gradients(model, layers[::2], [target], feeds, seed=0, directions=3)
        assert [check for check in checks if not check.ok] == [], name
        assert cosine is None or cosine(model) > 0.9999, name
        if any(rows is not None and rows.count > 1 for rows in model.rows.values()):
            merged.append(name)
    assert {f"{name}, {by}" for name in ("frames", "windows (Swin)") for by in ("TorchScript", "dynamo")} <= {*merged}


def test_no_backend_case_is_wrong() -> None:
    verdicts = [judge(case) for case in cases()]
    assert [v for v in verdicts if v.outcome == "wrong"] == []
    assert sum(v.outcome == "passed" for v in verdicts) >= 710
