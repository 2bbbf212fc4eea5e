"""The collection: one function a model, which writes model.onnx into a folder, and its owner's data beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

FAMILIES = (
    "scikit_learn",
    "pipelines",
    "boosting",
    "torch_exports",
    "torch_libraries",
    "tabular_networks",
    "transformers_texts",
    "transformers_pictures",
    "packaged_pictures",
    "packaged_signals",
    "packaged_texts",
    "onnx_models",
    "rewritten",
    "keras_networks",
)
"""The modules of the collection; each is imported only where one of its models is made or listed."""

Make = Callable[[Path], None]


@dataclass(frozen=True)
class ExpectedRefusal:
    """A refusal that is right: words of the sentence that Caveat is to answer with, and why they are true."""

    says: str
    because: str


@dataclass(frozen=True)
class Model:
    """A model that was not written for Caveat."""

    name: str
    source: str
    """The package that wrote the file, or whose network or estimator it is."""
    words: str
    """What it is, for the table."""
    make: Make
    refusal: ExpectedRefusal | None = None
    """None where it is to be audited."""
    quick: bool = False
    """Whether `make test` runs it: made in a second by the packages of the extra `dev`, audited in a few."""


MODELS: dict[str, Model] = {}
"""Every model of the families that were imported."""


def model(
    source: str, words: str, *, refusal: ExpectedRefusal | None = None, quick: bool = False
) -> Callable[[Make], Make]:
    """Adds the decorated function to the collection, under its own name."""

    def add(make: Make) -> Make:
        name = make.__name__.replace("_", "-")
        if name in MODELS:
            raise ValueError(f"two models of the zoo are called {name}")
        MODELS[name] = Model(name, source, words, make, refusal, quick)
        return make

    return add


def named(make: Make, name: str) -> Make:
    """The same function under another name, for models that differ in an argument."""
    make.__name__ = name
    return make


def models(families: tuple[str, ...] = FAMILIES) -> list[Model]:
    """The models of these families, in the order of the files."""
    for family in families:
        import_module(f"bench.zoo.{family}")
    return list(MODELS.values())
