"""Runs whose model is a formula: what an explanation has to find is then known without another program."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from caveat_worker.engine.base.arrays import AnyArray, Float32Array, Float64Array
from caveat_worker.engine.explanations.factors import Dictionary
from caveat_worker.engine.explanations.runs import (
    FORWARD,
    GRADIENT,
    Components,
    Direction,
    Examined,
    Labelled,
    Streamed,
)

Function = Callable[[Float64Array], Float64Array]


class Literal:
    """`Runs` of a function S of rows [n, d], its derivative and, for the part of biases, S(0)."""

    scores_at = "scores"

    ranges: AnyArray | None = None
    tokens: int | None = None

    def __init__(self, function: Function, derivative: Function, *, typical: AnyArray | None = None) -> None:
        self.function, self.derivative, self.typical = function, derivative, typical
        self.passes = 0

    def scores(self, x: AnyArray) -> Float64Array:
        self.passes += FORWARD * len(x)
        return self.function(np.asarray(x, float))

    def gradient(self, x: AnyArray, at: str = "input", *, rules: str = "vjp") -> Float32Array:
        self.passes += GRADIENT * len(x)
        return self.derivative(np.asarray(x, float))

    def scored_gradient(self, x: AnyArray) -> tuple[Float64Array, Float32Array]:
        return self.function(np.asarray(x, float)), self.gradient(x)

    def multipliers(self, x: AnyArray, reference: AnyArray) -> tuple[Float64Array, Float64Array, Float32Array]:
        """The derivative half way, which is exact up to degree two."""
        return self.scores(x), self.scores(reference), self.gradient((x + reference) / 2)

    def sees(self, layer: str, x: AnyArray) -> float:
        return 0.0

    def activations(self, x: AnyArray, layer: str) -> Float32Array:
        return np.asarray(x)

    def pull(self, upper: str, seeds: Float32Array, lower: str, x: AnyArray) -> Float32Array:
        """The only layer above the input is the score."""
        return seeds * self.gradient(np.repeat(x, len(seeds), axis=0))

    def rest(self, layer: str, a: Float32Array, x: AnyArray) -> Float64Array:
        return self.scores(a)

    def rest_gradient(self, layer: str, a: Float32Array, x: AnyArray) -> Float32Array:
        return self.gradient(a)

    def direction(self, concept: str, layer: str, reduce: str) -> Direction:
        """The derivative's own direction, from the origin."""
        v = self.derivative(np.zeros((1, 4)))[0]
        return Direction(v, np.zeros_like(v), held_out=0.9, by_chance=0.6, examples=40)

    def labelled(self, examples: str, labels: str) -> Labelled:
        raise NotImplementedError

    def examined(self, examples: str, layer: str, labels: str | None, known_at: str) -> Examined:
        raise NotImplementedError

    def dictionary(self, examples: str, layer: str, count: int) -> Dictionary:
        raise NotImplementedError

    def components(self, examples: str, layer: str) -> Components:
        raise NotImplementedError

    def streamed(self, examples: str, layer: str, labels: str | None) -> Streamed:
        raise NotImplementedError

    def bias_part(self, x: AnyArray, *, rules: str = "vjp") -> float:
        return float(self.function(np.zeros_like(x))[0])


W = np.array([2.0, -1.0, 0.5, 0.0])
LINEAR = (lambda x: x @ W + 3, lambda x: np.broadcast_to(W, x.shape))
"""S = 2 x₁ - x₂ + x₃ / 2 + 3, with a fourth input that it does not read."""
PRODUCT = (lambda x: x[:, 0] * x[:, 1], lambda x: x[:, ::-1])
"""S = x₁ x₂."""
PAIR = (
    lambda x: 5 * x[:, 0] + x[:, 1] ** 2 + np.sin(x[:, 2]),
    lambda x: np.stack([np.full(len(x), 5.0), 2 * x[:, 1], np.cos(x[:, 2])], axis=1),
)
"""S = 5x + y² + sin z, the example of PAIR's saliency library."""
