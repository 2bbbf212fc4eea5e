"""The audits that are timed: seeded pictures and rows, the files that hold them, and the audit documents."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from PIL import Image

from bench.networks import GOOGLENET_LAYERS, googlenet, perceptron
from caveat_spec.audit import Audit
from caveat_spec.report import Report
from caveat_worker import pipeline
from examples.graph import save

SIDE = 224
"""Pixels."""
PREPROCESS = {"size": SIDE, "mean": 127.5, "std": 64.0}
Paint = Callable[[np.random.Generator], NDArray[np.uint8]]


@dataclass
class Question:
    """An audit's document, and the folder of the files that it names."""

    folder: Path
    document: dict[str, Any]
    _digests: dict[str, str] = field(default_factory=dict)

    def audit(self) -> Audit:
        """The audit with its sources as digests."""
        audit = Audit.model_validate(self.document)
        return audit.with_sources({at: self._digest(source) for at, source in audit.sources().items()})

    def blob(self, digest: str) -> Path:
        """Where a digest's bytes are."""
        return self.folder / next(name for name, known in self._digests.items() if known == digest)

    def counts(self) -> dict[str, int]:
        """How many pictures each set has."""
        return {
            name: len(zipfile.ZipFile(self.folder / one["images"]).namelist())
            for name, one in self.document["examples"].items()
        }

    def run(self, *, threads: int = 0, **options: Any) -> Report:
        """The report, computed in this process."""
        return pipeline.run(self.audit(), self.blob, _silently, threads=threads, **options)

    def _digest(self, name: str) -> str:
        if name not in self._digests:
            self._digests[name] = "sha256:" + hashlib.sha256((self.folder / name).read_bytes()).hexdigest()
        return self._digests[name]


def of_pictures(
    folder: Path,
    *,
    concept: int = 50,
    reference: int = 500,
    targets: int = 50,
    concepts: int = 2,
    runs: int = 500,
    permutations: int = 499,
    layers: tuple[str, ...] = GOOGLENET_LAYERS,
    network: Callable[[], ModelProto] = googlenet,
) -> Question:
    """An audit of a network with random weights: `concepts` kinds of striped pictures against blots."""
    folder.mkdir(parents=True, exist_ok=True)
    save(network(), folder / "model.onnx")
    _pack(folder / "reference.zip", reference, blots, 1)
    _pack(folder / "targets.zip", targets, blots, 2)
    names = [f"stripes{number + 1}" for number in range(concepts)]
    for number, name in enumerate(names):
        _pack(folder / f"{name}.zip", concept, stripes(number / concepts), 3 + number)
    return Question(
        folder,
        {
            "model": "model.onnx",
            "examples": {
                name: {"images": f"{name}.zip", "preprocess": PREPROCESS} for name in (*names, "reference", "targets")
            },
            "concepts": {name: {"examples": name, "against": "reference"} for name in names},
            "targets": {"class": {"index": 7, "examples": "targets"}},
            "layers": list(layers),
            "method": {"runs": runs, "permutations": permutations, "provider": "cpu", "gradient_tolerance": 0.05},
        },
    )


def of_rows(
    folder: Path,
    *,
    reference: int = 100,
    concept: int = 50,
    targets: int = 50,
    features: int = 20,
    concepts: int = 1,
    layers: int = 1,
    runs: int = 500,
    hidden: int = 64,
) -> Question:
    """An audit of a perceptron and table rows; each concept moves its rows along one feature. The default is tiny."""
    folder.mkdir(parents=True, exist_ok=True)
    save(perceptron(features, [*[hidden] * layers, 32]), folder / "model.onnx")
    rng = np.random.default_rng(1)
    sizes = {"reference": reference, "targets": targets}
    kinds = {name: rng.normal(size=(size, features)).astype(np.float32) for name, size in sizes.items()}
    names = [f"feature{number + 1}" for number in range(concepts)]
    for number, name in enumerate(names):
        kinds[name] = rng.normal(size=(concept, features)).astype(np.float32)
        kinds[name][:, number] += 2
    for name, kind in kinds.items():
        np.save(folder / f"{name}.npy", kind)
    return Question(
        folder,
        {
            "model": "model.onnx",
            "examples": {name: {"arrays": f"{name}.npy"} for name in kinds},
            "concepts": {name: {"examples": name, "against": "reference"} for name in names},
            "targets": {"score": {"examples": "targets"}},
            "layers": [f"hidden{number + 1}" for number in range(layers)],
            "method": {"runs": runs},
        },
    )


def blots(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A picture of soft blots of colour [side, side, 3]."""
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def stripes(angle: float) -> Paint:
    """Blots under stripes at an angle, in half turns."""

    def paint(rng: np.random.Generator) -> NDArray[np.uint8]:
        y, x = np.mgrid[:SIDE, :SIDE]
        across = x * np.cos(np.pi * angle) + y * np.sin(np.pi * angle)
        dark = (across // rng.integers(4, 12)) % 2 == 0
        return (blots(rng) * np.where(dark, 0.4, 1.0)[..., None]).astype(np.uint8)

    return paint


def _pack(path: Path, count: int, paint: Paint, seed: int) -> None:
    """A zip of `count` JPEGs."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            jpeg = io.BytesIO()
            picture = Image.fromarray(paint(np.random.default_rng([seed, number])))
            picture.save(jpeg, "JPEG", quality=90)
            archive.writestr(zipfile.ZipInfo(f"{number:05d}.jpg"), jpeg.getvalue())


def _silently(stage: str, progress: float) -> None:
    """Ignores progress."""
