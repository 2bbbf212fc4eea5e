"""Models of hundreds of megabytes, and of more than one protobuf message can hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from bench.decoder import write_decoder
from bench.measure import held_bytes, peak_memory
from caveat_worker.engine.autodiff.differentiate import differentiate
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.onnx import stored_weights
from caveat_worker.engine.onnx.session import open_session
from tests.oracle.large import perceptron

pytestmark = pytest.mark.slow
TARGET = Target("t", index=3)


def test_weights_beyond_two_gigabytes_stay_beside_the_graph(tmp_path: Path) -> None:
    perceptron(tmp_path / "model.onnx", width=9600, layers=6, external=True)
    assert (tmp_path / "model.onnx.data").stat().st_size > 2 * 2**30
    model = load(tmp_path / "model.onnx", folder=tmp_path)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 9600)).astype(np.float32)}
    checks = check_gradients(model, ["hidden4"], [TARGET], feeds, seed=0, directions=2)
    assert checks[0].ok
    graph = differentiate(model, ["hidden2"], [TARGET])
    ours = open_session(graph).run(feeds)
    graph.save(tmp_path / "gradient.onnx")
    saved = onnxruntime.InferenceSession(str(tmp_path / "gradient.onnx"), providers=["CPUExecutionProvider"])
    (again,) = saved.run(["gradient/t/hidden2"], feeds)
    np.testing.assert_allclose(again, ours["gradient/t/hidden2"], rtol=1e-4, atol=1e-6)


def test_halves_become_float32_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder is loaded and differentiated in far less memory than its weights take as float32."""
    monkeypatch.setattr(stored_weights, "LEAST_TOGETHER", 0)
    halves = write_decoder(tmp_path / "model.onnx", blocks=6, width=1024, words=4000)
    ids = np.random.default_rng(0).integers(4000, size=(4, 8))
    before = held_bytes()
    with peak_memory() as most:
        model = load(tmp_path / "model.onnx", folder=tmp_path)
        graph = differentiate(model, ["block1"], [Target("next", index=3, reduce="mean")])
        found = open_session(graph, threads=1).run({"input_ids": ids})
    assert np.isfinite(found["gradient/next/block1"]).all()
    assert most[0] - before < halves  # half of what they take as float32
