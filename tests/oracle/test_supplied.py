"""The script of the how-to page: its gradient graph from torch is verified and equals our own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caveat_spec.audit import Scalar
from caveat_worker import inspection
from caveat_worker.engine.autodiff.differentiate import differentiate
from caveat_worker.engine.autodiff.external_gradients import read_external_gradients
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.onnx.session import open_session

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "supply-a-gradient.md"


@pytest.mark.slow
def test_the_example_from_torch_is_right(tmp_path: Path) -> None:
    script = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert script is not None
    subprocess.run([sys.executable, "-W", "ignore", "-c", script[1]], cwd=tmp_path, check=True, capture_output=True)
    path = tmp_path / "gradient.onnx"
    carton = Scalar(output="logits", index=3)
    inspected = inspection.inspect_model(tmp_path / "model.onnx", "logits", 3, path, {"carton": carton})
    assert [check.layer for check in inspected.gradient_checks] == ["hidden"]
    assert inspected.gradient_checks[0].relative_error < 0.01

    model = load(tmp_path / "model.onnx")
    feeds = {"x": np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32)}
    theirs = open_session(read_external_gradients(path, model).graph, threads=1).run(feeds)
    ours = open_session(differentiate(model, ["hidden"], [Target("carton", output="logits", index=3)])).run(feeds)
    name = "gradient/carton/hidden"
    np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4, atol=1e-7)
