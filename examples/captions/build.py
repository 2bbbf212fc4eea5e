"""Writes networks trained on more or less true captions, pictures for their audits, and the truth.

python -m examples.captions.build [folder]

The truth is accuracy on pictures without a caption: a network that reads captions is bad at these.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from examples.captions.pictures import CLASSES, OTHER_WORDS, SIDE, Pictures, captioned, captions_alone, pictures
from examples.graph import Graph, save
from examples.perceptron import trained

FOLDER = Path(".caveat/demo/captions")
SEEDS = range(5)

WRONG_CAPTIONS: Mapping[str, float | None] = {"none": None, "p0": 0.0, "p30": 0.3, "p100": 1.0}
"""Network → the share of its training pictures whose caption is a word of no class; null for no captions at all."""

TRAINED_ON = 1500
TESTED_ON = 600
CONCEPT, REFERENCE, TARGETS = 60, 120, 60
EPOCHS = 15

WORDS = tuple(CLASSES)


@dataclass(frozen=True)
class Labelled:
    """`pictures` [n, SIDE, SIDE, 3] and the `labels` [n] of their classes."""

    pictures: Pictures
    labels: NDArray[np.int64]

    def inputs(self) -> NDArray[np.float64]:
        """[n, 3 * SIDE * SIDE], channels first, 0 to 1."""
        return self.pictures.transpose(0, 3, 1, 2).reshape(len(self.pictures), -1) / 255


def build(folder: Path, seeds: range = SEEDS) -> None:
    """Writes `seed0` and so on, each with an ONNX file a network, folders of PNG files and `truth.json`."""
    for seed in seeds:
        generator = np.random.default_rng(seed)
        into = folder / f"seed{seed}"
        into.mkdir(parents=True, exist_ok=True)
        truth = {}
        plain, with_captions = _drawn(TESTED_ON, None, generator), _drawn(TESTED_ON, 0.0, generator)
        for name, wrong in WRONG_CAPTIONS.items():
            classifier = train(_drawn(TRAINED_ON, wrong, generator), seed)
            save(to_onnx(classifier), into / f"{name}.onnx")
            truth[name] = {
                "accuracy_without_captions": _accuracy(classifier, plain),
                "accuracy_with_captions": _accuracy(classifier, with_captions),
            }
        (into / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")
        for name, drawn in example_sets(generator).items():
            _write(drawn, into / name)


def example_sets(generator: np.random.Generator) -> dict[str, Pictures]:
    """For each class an image and a caption concept with a reference each, and targets; two random sets, `null-*`."""

    def words(count: int, choice: tuple[str, ...]) -> list[str]:
        return [choice[number % len(choice)] for number in range(count)]

    sets = {}
    for word in WORDS:
        others = tuple(other for other in WORDS if other != word)
        for name, choice, count in ((word, (word,), CONCEPT), (f"not-{word}", others, REFERENCE)):
            sets[f"image-{name}"] = pictures(words(count, choice), generator)
            background = pictures([str(one) for one in generator.choice(WORDS, count)], generator)
            sets[f"caption-{name}"] = captions_alone(background, words(count, choice), generator)
        targets = words(TARGETS, (word,))
        sets[f"target-{word}"] = captioned(pictures(targets, generator), targets)
    sets["null-concept"] = pictures(words(CONCEPT, WORDS), generator)
    sets["null-reference"] = pictures(words(REFERENCE, WORDS), generator)
    return sets


def train(examples: Labelled, seed: int) -> MLPClassifier:
    """A network of two hidden layers; it stops after a fixed number of passes."""
    classifier = MLPClassifier((64, 32), alpha=1e-3, max_iter=EPOCHS, random_state=seed)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(examples.inputs(), examples.labels)


def to_onnx(classifier: MLPClassifier) -> ModelProto:
    """`picture` [N, 3, 48, 48] of 0 to 1 → `logits` [N, 3]; layers are `hidden1` and `hidden2`."""
    graph = Graph("captions")
    trained(classifier).write(graph, graph.node("Flatten", ["picture"], "pixels", axis=1), "logits")
    return graph.model({"picture": ["N", 3, SIDE, SIDE]}, {"logits": ["N", len(WORDS)]})


def _drawn(count: int, wrong: float | None, generator: np.random.Generator) -> Labelled:
    """Pictures of all classes; each caption is a word of no class with probability `wrong`."""
    labels = np.arange(count) % len(WORDS)
    words = [WORDS[label] for label in labels]
    plain = pictures(words, generator)
    if wrong is None:
        return Labelled(plain, labels)
    others = generator.choice(OTHER_WORDS, count)
    is_wrong = generator.random(count) < wrong
    captions = [str(other) if lies else word for word, other, lies in zip(words, others, is_wrong, strict=True)]
    return Labelled(captioned(plain, captions), labels)


def _accuracy(classifier: MLPClassifier, asked: Labelled) -> float:
    return float(classifier.score(asked.inputs(), asked.labels))


def _write(drawn: Pictures, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(drawn):
        Image.fromarray(picture).save(folder / f"{number:03}.png", compress_level=1)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
