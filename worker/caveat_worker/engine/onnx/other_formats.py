"""Files that people take for an ONNX model: what they are, by their bytes, and how to make an ONNX model of them."""

from __future__ import annotations

import re
from collections.abc import Callable

_FROM_TORCH = "Load it in Python and export the model: torch.onnx.export(model.eval(), (example,), 'model.onnx')."
_FROM_SKLEARN = "Load it in Python and export the model: for scikit-learn, skl2onnx.to_onnx(model, X[:1])."
_FROM_TREES = "Load it in Python and export the model with onnxmltools, or with save_model(format='onnx') of CatBoost."


def _is_zip_with(data: bytes, name: bytes) -> bool:
    """Whether it is a zip whose names, which are listed at its end, have this one among them."""
    return data.startswith(b"PK\3\4") and name in data[-65536:]


FORMATS: tuple[tuple[str, str, Callable[[bytes], bool]], ...] = (
    ("it is empty", "Copy the file again.", lambda data: not data.strip(b"\0")),
    (
        "it is Git LFS's pointer to one",
        "Fetch the file itself: git lfs pull.",
        lambda data: data.startswith(b"version https://git-lfs"),
    ),
    (
        "it is a file of PyTorch",
        _FROM_TORCH,
        lambda data: _is_zip_with(data, b"/data.pkl") or _is_zip_with(data, b"archive_format"),
    ),
    (
        "it is a model of Keras",
        "Convert it: load it with Keras and call model.export('model.onnx', format='onnx').",
        lambda data: _is_zip_with(data, b"model.weights.h5"),
    ),
    (
        "it is an HDF5 file, as Keras writes",
        "Convert it: load it with Keras, and call tf2onnx.convert.from_keras(model, output_path='model.onnx').",
        lambda data: data.startswith(b"\x89HDF"),
    ),
    (
        "it is a model of TensorFlow Lite",
        "Convert it: python -m tf2onnx.convert --tflite model.tflite --output model.onnx.",
        lambda data: data[4:8] == b"TFL3",
    ),
    (
        "it is a model in ONNX Runtime's own format",
        "Give the .onnx file that it was made from.",
        lambda data: data[4:8] == b"ORTM",
    ),
    (
        "it is a file of weights (safetensors), without the network that uses them",
        _FROM_TORCH,
        lambda data: data[7:9] == b"\0{" and int.from_bytes(data[:8], "little") < 2**32,
    ),
    ("it is a pickle of Python", _FROM_SKLEARN, lambda data: data[:1] == b"\x80" and data[1:2] in b"\2\3\4\5"),
    (
        "it is a model of XGBoost",
        _FROM_TREES,
        lambda data: bool(re.match(rb'\{\s*"(learner|version)"|\{L.{8}learner', data, re.DOTALL)),
    ),
    ("it is a model of LightGBM", _FROM_TREES, lambda data: data.startswith(b"tree\nversion=")),
    ("it is a model of CatBoost", _FROM_TREES, lambda data: data.startswith(b"CBM1")),
    (
        "it is the network of an OpenVINO model",
        "Give the ONNX file that it was converted from.",
        lambda data: data.lstrip()[:1] == b"<" and b"<net" in data[:2048],
    ),
)
"""What a file is, as a clause; the remedy; and whether these are its bytes. The first that fits counts."""


def other_format(content: bytes) -> tuple[str, str] | None:
    """What a file is instead of an ONNX model, as a clause, and the remedy; None for other bytes."""
    return next(((what, remedy) for what, remedy, fits in FORMATS if fits(content)), None)
