"""The onnx package's own light models, with seeded weights in place of its constants."""

from __future__ import annotations

from pathlib import Path

import onnx

from bench.zoo import data
from bench.zoo.collection import Make, model, named


def light(name: str, words: str) -> Make:
    """A light model of the onnx package, which computes its weights by ConstantOfShape."""

    def make(folder: Path) -> None:
        path = data.packaged("onnx", f"onnx/backend/test/data/light/light_{name}.onnx")
        onnx.save(onnx.load(path), folder / "model.onnx")
        data.photos(folder, 224)

    return model("onnx", words)(named(make, f"light_{name}"))


light("squeezenet", "SqueezeNet as a test, its weights all alike, a batch of 1")
light("shufflenet", "ShuffleNet as a test, its weights all alike, a batch of 1")
