"""A published network with trained weights, quantised as its users do it: what is audited is what is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from caveat_worker.engine.autodiff.differentiate import expose
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.onnx.session import open_session
from tests.examples.test_networks import PREPROCESS, centre

CARTON = Target("carton", output="logits", index=478)
SEEN, NEW = ("chelsea", "coffee", "camera"), ("motorcycle_left", "rocket", "china")


def pictures(names: tuple[str, ...]) -> NDArray[np.float32]:
    return np.stack([centre(name, PREPROCESS["efficientnet-lite0"]) for name in names])


class Photographs(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.feeds = iter([{"image": picture[None]} for picture in pictures(SEEN)])

    def get_next(self) -> Any:
        return next(self.feeds, None)


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_efficientnet_in_eight_bits(watermark_folder: Path, tmp_path: Path, form: QuantFormat) -> None:
    """By channels, where each channel's bias has a scale of its own: a bias kept as a number changed the scores."""
    path = tmp_path / "int8.onnx"
    quantize_static(
        watermark_folder / "efficientnet-lite0.onnx", path, Photographs(), quant_format=form, per_channel=True
    )
    model, feeds = load(path), {"image": pictures(NEW)}
    (served,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)
    audited = open_session(expose(model, ["logits"])).run(feeds)["logits"]
    np.testing.assert_array_equal(audited, served)
    states = list_layers(model, CARTON)
    assert len(states) > 100
    assert all(state.auditable for state in states)
    last = [state.tensor for state in states if state.tensor.startswith("block15")][-1]
    (check,) = check_gradients(model, [last], [CARTON], feeds, seed=0)
    assert check.ok, check.explain(0.02)
