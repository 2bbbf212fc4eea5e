"""Runs a model by ONNX Runtime alone, with no part of Caveat's engine: the other way to know what it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from caveat_spec.audit import Preprocess

Float64Array = NDArray[np.float64]
BATCH = 16


def outputs(model: Path, inputs: NDArray[np.float32], tensor: str | None = None) -> Float64Array:
    """The first output [n, classes] for `inputs` [n, ...], or another tensor of the graph."""
    proto = onnx.load(model)
    if tensor is not None:
        proto.graph.output.append(onnx.ValueInfoProto(name=tensor))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name, wanted = session.get_inputs()[0].name, tensor or session.get_outputs()[0].name
    parts = [session.run([wanted], {name: inputs[at : at + BATCH]})[0] for at in range(0, len(inputs), BATCH)]
    return np.concatenate(parts).astype(float)


def probabilities(logits: Float64Array) -> Float64Array:
    """Softmax over the classes [n, classes]."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    shares: Float64Array = shifted / shifted.sum(1, keepdims=True)
    return shares


def pictures(folder: Path, how: Preprocess) -> dict[str, NDArray[Any]]:
    """File name → the network's input, for pictures that already have its size."""
    return {path.name: _input(Image.open(path), how) for path in sorted(folder.glob("*.png"))}


def _input(picture: Image.Image, how: Preprocess) -> NDArray[np.float32]:
    pixels = np.asarray(picture.convert("L" if how.channels == "gray" else "RGB"), np.float32)
    pixels = pixels[..., None] if how.channels == "gray" else pixels
    pixels = pixels[..., ::-1] if how.channels == "bgr" else pixels
    assert pixels.shape[:2] == how.height_and_width
    mean, std = (np.asarray(each, np.float32) for each in (how.mean, how.std))
    moved: NDArray[np.float32] = (pixels - mean) / std
    return np.ascontiguousarray(moved.transpose(2, 0, 1))
