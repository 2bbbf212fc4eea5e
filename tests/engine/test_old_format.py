"""Files of the oldest format of ONNX, whose weights are inputs as well."""

from __future__ import annotations

from pathlib import Path

import onnx

from caveat_worker.engine.autodiff.load import load

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_squeezenet.onnx"


def test_weights_that_are_computed_from_a_shape_among_the_inputs() -> None:
    """The shapes that ConstantOfShape takes are weights of a version in which weights have to be inputs."""
    content = LIGHT.read_bytes()
    assert onnx.load_from_string(content).ir_version == 3
    assert [one.name for one in load(content).inputs] == ["data_0"]
