"""What an explanation may ask of a model about one target, as an interface: literal functions implement it in tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.base.arrays import AnyArray, Float32Array, Float64Array, Indices
from caveat_worker.engine.explanations.factors import Dictionary

FORWARD = 1
GRADIENT = 5
"""What a gradient costs, in forward passes."""
INPUT = "input"
"""The name, as a layer, of the tensor that stands for the input: the embeddings of a model that takes token ids."""


@dataclass(frozen=True)
class Direction:
    """A concept activation vector at a layer, from examples among which the one that is explained is not."""

    v: Float64Array
    """[*layer], so that the concept score of activations h is Σ (h - origin)·v, in standard deviations."""
    origin: Float64Array
    """[*layer] where the score is 0: the mean of the reference set."""
    held_out: float
    """The share of held-out examples on their side, both sides weighing the same."""
    by_chance: float
    """What held-out accuracy reaches with shuffled labels in 1 of 20 cases."""
    examples: int
    """How many examples it is from."""
    tokens: NDArray[np.bool_] | None = None
    """Which positions of the explained text are no padding, where the direction is that of a mean over those."""

    @property
    def here(self) -> Float64Array:
        """`v` at the explained example: with a mean over its tokens in place of all positions."""
        if self.tokens is None:
            return self.v
        return np.asarray(self.v * (self.tokens * (len(self.tokens) / self.tokens.sum()))[:, None])


@dataclass(frozen=True, eq=False)
class Labelled:
    """A labelled example set at the head of a model."""

    layer: str
    """The tensor of features that the last affine layer reads."""
    features: Float64Array
    """[n, d]"""
    scores: Float64Array
    """[n, classes]"""
    classes: Indices
    """The number of each example's class [n]; of one score, 1 is its yes."""
    weights: Float64Array
    """The last layer's [classes, d]."""


Hold: TypeAlias = Callable[[Indices, Float64Array, Float64Array], Float64Array]
"""(examples [m], directions [k, channels] of length 1, values [k]) → the target's number [k, m], each time with every
position of the layer held at one value along one direction."""


@dataclass(frozen=True)
class Examined:
    """The examples of a set at a layer, with what is already known of them."""

    activations: AnyArray
    """[n, positions, channels]"""
    numbers: Float64Array
    """The target's number [n]."""
    digests: Sequence[str]
    """Of each example's content: equal ones are one example."""
    labels: Indices | None = None
    """The number of each example's label [n]."""
    named: Mapping[str, Float64Array] = field(default_factory=dict)
    """Concept → concept scores [n]."""
    unscored: Mapping[str, float] = field(default_factory=dict)
    """Concepts that those scores tell no better than chance, with the share of held-out examples on their side."""
    names: Sequence[str] = ()
    columns: Sequence[str] = ()
    """The names of the channels, where they are columns of a table."""
    seed: int = 0
    alpha: float = 0.05
    adopted: int = 10
    """How many examples a concept needs."""
    held: Hold | None = None
    """None where the model takes nothing in the layer's place."""


@dataclass(frozen=True)
class SomeExamples:
    """Some examples of a set at a layer."""

    activations: AnyArray
    """[k, positions, channels]"""
    numbers: Float64Array
    """The target's number [k]."""
    tokens: Indices | None = None
    """How many positions of each are no padding [k], where the layer has one for each token."""


@dataclass(frozen=True)
class Streamed:
    """An example set at a layer, some examples at a time, so that it may be of any size."""

    names: Sequence[str]
    kinds: Sequence[NDArray[np.bool_]]
    """Which examples are of each kind [n]: the target's class, and others where there are some; without labels, all."""
    batches: Iterable[SomeExamples]
    """In the order of the set."""


@dataclass(frozen=True)
class Components:
    """The directions along which the places of a layer differ most."""

    directions: Float64Array
    """[3, channels], of length 1; 0 where the places differ in fewer."""
    origin: Float64Array
    """The mean of the places [channels]."""
    shares: Float64Array
    """Of the variance between these places [3]."""
    places: int
    """How many they are from."""


class Runs(Protocol):
    """One target of one model, around one example; every call counts the passes that it makes."""

    scores_at: str
    """The tensor of scores that the target is read from."""
    typical: AnyArray | None
    """A typical input [1, …], as the mean photograph or the most frequent category, where the asker gave examples."""
    ranges: AnyArray | None
    """How far each column of a table ranges over the same examples [1, columns]."""

    tokens: int | None
    """How many positions of a text are no padding, where the layers have a position for each."""

    @property
    def passes(self) -> int:
        """Forward passes so far; a gradient counts as five."""
        ...

    def scores(self, x: AnyArray) -> Float64Array:
        """The target's number S [n] at inputs [n, …]."""
        ...

    def gradient(self, x: AnyArray, at: str = INPUT, *, rules: str = "vjp") -> Float32Array:
        """∂S/∂a [n, …] at the input or at a layer a, by a table of backward rules that need no reference."""
        ...

    def scored_gradient(self, x: AnyArray) -> tuple[Float64Array, Float32Array]:
        """S [n] and ∂S/∂x [n, …] at inputs [n, …], for the price of the gradient."""
        ...

    def multipliers(self, x: AnyArray, reference: AnyArray) -> tuple[Float64Array, Float64Array, Float32Array]:
        """S at inputs and at their references [n], and multipliers m [n, …] with Σ m·(x - x̄) = S(x) - S(x̄)."""
        ...

    def sees(self, layer: str, x: AnyArray) -> float:
        """The share of the longer side of the input [n, …] that one place of a layer sees; 1 for all of it."""
        ...

    def activations(self, x: AnyArray, layer: str) -> Float32Array:
        """The activations of a layer [n, …]; of the layer `input`, the input itself."""
        ...

    def pull(self, upper: str, seeds: Float32Array, lower: str, x: AnyArray) -> Float32Array:
        """The cotangents at `lower` [k, …] of the seeds at `upper` [k, …], all at one input x [1, …]."""
        ...

    def rest(self, layer: str, a: Float32Array, x: AnyArray) -> Float64Array:
        """The target's number [n] with activations [n, …] put in place of a layer's at one input x [1, …]."""
        ...

    def rest_gradient(self, layer: str, a: Float32Array, x: AnyArray) -> Float32Array:
        """∂S/∂a [n, …] with activations [n, …] put in place of a layer's at one input x [1, …]."""
        ...

    def direction(self, concept: str, layer: str, reduce: str) -> Direction:
        """The CAV of a concept at a layer, in units of the reference set's spread along it."""
        ...

    def labelled(self, examples: str, labels: str) -> Labelled:
        """A labelled example set at the model's last affine layer."""
        ...

    def examined(self, examples: str, layer: str, labels: str | None, known_at: str) -> Examined:
        """An example set at a layer, with its labels, and with scores of the audit's concepts at another layer."""
        ...

    def dictionary(self, examples: str, layer: str, count: int) -> Dictionary:
        """So many groups of a layer's channels over an example set."""
        ...

    def components(self, examples: str, layer: str) -> Components:
        """The principal components of a layer's places over an example set."""
        ...

    def streamed(self, examples: str, layer: str, labels: str | None) -> Streamed:
        """An example set at a layer, some examples at a time; by their labels, those of the target's class apart."""
        ...

    def bias_part(self, x: AnyArray, *, rules: str = "vjp") -> float:
        """Σ b·∂S/∂b over all biases b, at one input x [1, …]."""
        ...
