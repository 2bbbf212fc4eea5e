"""The mean of a gradient along short random segments, compared with how the output changes between their ends.

For any path from b to a, h(a) - h(b) is the integral of ∇h along it, also where the path crosses kinks: a Relu that
switches changes the gradient on the way, and the integral with it. With one point in the middle of a segment this is a
central difference; where kinks put that off, more points follow, and a right gradient comes as near as one likes. A
wrong one does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.onnx.session import Session

LEAST_COSINE = 0.9
_JITTER = np.float32(0.1)  # relative to the activations' scale: moves points off ties, such as zeros before a MaxPool
_ROUNDING = 16 * float(np.finfo(np.float32).eps)  # of h: the error that float32 leaves in a difference of two values
_NOISY = 10  # tolerances: differences that rounding might put off by more decide nothing; it mostly takes a tenth
_HOPELESS = {8: 10.0, 32: 1.0}
"""Points → tolerances: a gradient that is off by more with so many points, beyond rounding, is wrong."""
_INSIDE = 4  # times the rounding of h: what is lost inside a network may be more, and longer segments tell


@dataclass(frozen=True)
class Attempt:
    """Half a segment's length, relative to the activations' scale, and the points on it where the gradient is taken."""

    step: float
    points: int


_REFINED = (Attempt(3e-4, 4), Attempt(1e-3, 8), Attempt(1e-3, 32))
_LONG = (Attempt(1e-2, 64), Attempt(1e-1, 128), Attempt(1, 256), Attempt(4, 512))
_ATTEMPTS = (Attempt(1e-3, 1), Attempt(3e-4, 1), Attempt(1e-4, 1), *_REFINED, *_LONG)
"""Tried until one agrees. A short segment crosses few kinks; a long one is tried where rounding hides a short one."""
_WIDE, _ATTEMPTS_IF_WIDE = 10_000, (Attempt(3e-4, 1), Attempt(1e-4, 1), Attempt(1e-3, 1), *_REFINED, *_LONG)
"""From so many features on, even 1e-3 crosses many kinks."""
_STEPS = (1e-3, 3e-4, 1e-4, 3e-3, 1e-2, 3e-5, 1e-5)
"""Steps for an external gradient, which is known at the activations alone."""


class Rows(NamedTuple):
    """How many rows a run may have, forward and backward, where points of several segments share it."""

    forward: int
    backward: int


@dataclass(frozen=True)
class Segments:
    """Segments through a point of a layer along directions [k, n, ...], and the graphs that run from the layer on.

    `at` has the values and gradients at the point itself; without `backward` they are known nowhere else.
    """

    layer: str
    feeds: Mapping[str, NDArray[Any]]
    point: NDArray[np.float32]
    directions: NDArray[np.float32]
    scale: float
    forward: Session
    backward: Session | None
    at: Mapping[str, NDArray[Any]]
    rows: Rows | None = None
    """None for one point of a direction in each run, at all examples."""

    def values(self, *steps: float) -> list[dict[str, NDArray[np.float64]]]:
        """For each step, each target's value that far along every direction [k, n], by output name."""
        shape = len(steps), len(self.directions), len(self.point)
        found: dict[str, NDArray[np.float64]] = {}
        for places, u, run in self._runs(self.forward, steps, self.rows and self.rows.forward):
            for name, value in run.items():
                found.setdefault(name, np.empty(shape)).reshape(-1)[places] = value.reshape(len(u))
        return [{name: values[number] for name, values in found.items()} for number in range(len(steps))]

    def derivatives(self, attempt: Attempt) -> dict[str, NDArray[np.float64]]:
        """The mean of ∇h·u along each segment [k, n], by the name of the gradient's output."""
        if attempt.points == 1 or self.backward is None:
            return {
                name: np.stack([_dot(gradient, u) for u in self.directions])
                for name, gradient in self.at.items()
                if name.startswith("gradient/") and gradient.shape == self.point.shape
            }
        steps = [along * attempt.step for along in (2 * np.arange(attempt.points) + 1) / attempt.points - 1]
        shape = len(steps), len(self.directions), len(self.point)
        found: dict[str, NDArray[np.float64]] = {}
        for places, u, run in self._runs(self.backward, steps, self.rows and self.rows.backward):
            for name, gradient in run.items():
                if name.startswith("gradient/"):
                    found.setdefault(name, np.empty(shape)).reshape(-1)[places] = _dot(gradient, u)
        return {name: dots.mean(axis=0) for name, dots in found.items()}

    def _runs(
        self, session: Session, steps: Sequence[float], rows: int | None
    ) -> Iterator[tuple[slice, NDArray[np.float32], dict[str, NDArray[Any]]]]:
        """A graph at every step along every direction from every example: places [steps, k, n], directions, outputs."""
        k, n = len(self.directions), len(self.point)
        sizes = np.array([np.float32(step * self.scale) for step in steps]).reshape(-1, *[1] * (self.point.ndim - 1))
        for start in range(0, len(steps) * k * n, rows or n):
            places = slice(start, min(start + (rows or n), len(steps) * k * n))
            each = np.arange(places.start, places.stop)
            example, u = each % n, self.directions[each // n % k, each % n]
            feeds = self.feeds if rows is None else {name: values[example] for name, values in self.feeds.items()}
            yield places, u, session.run({**feeds, self.layer: self.point[example] + sizes[each // (k * n)] * u})


@dataclass(frozen=True)
class Agreement:
    """How well derivatives agree at one step; `rounding` is the residual that rounding alone could leave at most."""

    step: float
    residual: float
    cosine: float
    rounding: float

    def within(self, tolerance: float) -> bool:
        """Whether they agree, and not by chance among differences that are mostly rounding."""
        return self.residual <= tolerance and self.cosine >= LEAST_COSINE and not self.noisy(tolerance, self.step)

    def noisy(self, tolerance: float, step: float) -> bool:
        """Whether differences over a step are mostly rounding, which is inverse to the step."""
        return self.rounding * self.step > _NOISY * tolerance * step


def scale_of(activations: NDArray[Any]) -> float:
    """The root mean square of the finite activations, or 1 if it is 0; a mask has -inf."""
    finite = activations[np.isfinite(activations)]
    return (float(np.sqrt(np.mean(np.square(finite, dtype=np.float64)))) if finite.size else 0.0) or 1.0


def in_parts(session: Session, feeds: Mapping[str, NDArray[Any]], rows: Rows | None) -> dict[str, NDArray[Any]]:
    """The outputs of a graph at examples, of which not more go through it at a time than may."""
    if rows is None or (count := max(map(len, feeds.values()))) <= rows.backward:
        return session.run(feeds)
    parts = [slice(start, start + rows.backward) for start in range(0, count, rows.backward)]
    runs = [session.run({name: values[part] for name, values in feeds.items()}) for part in parts]
    return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}


def _dot(gradient: NDArray[Any], u: NDArray[np.float32]) -> NDArray[np.float64]:
    """∇h·u for each example [n]."""
    sums: NDArray[np.float64] = np.einsum(
        "nd,nd->n", gradient.reshape(len(u), -1), u.reshape(len(u), -1), dtype=np.float64
    )
    return sums


def segments_beside(
    layer: str,
    seen: Mapping[str, NDArray[Any]],
    forward: Session,
    backward: Session,
    rng: np.random.Generator,
    directions: int,
    rows: Rows | None = None,
) -> Segments:
    """Segments through a point beside the activations, off ties."""
    x, scale = seen[layer], scale_of(seen[layer])
    off, u = rng.standard_normal(x.shape, np.float32), rng.standard_normal((directions, *x.shape), np.float32)
    point = x + _JITTER * np.float32(scale) * off
    at = in_parts(backward, {**seen, layer: point}, rows)
    if not all(np.isfinite(value).all() for value in at.values()):  # a negative variance, say: keep the signs
        point, u = x + _JITTER * np.abs(x) * off, u * np.abs(x) / np.float32(scale)
        at = in_parts(backward, {**seen, layer: point}, rows)
    return Segments(layer, seen, point, u, scale, forward, backward, at, rows)


def best_agreements(segments: Segments, targets: Sequence[str], tolerance: float) -> dict[str, Agreement]:
    """The best agreement of each target, from the first attempts up to one that is within the tolerance."""
    best: dict[str, Agreement] = {}
    still = list(targets)
    for attempt in _ATTEMPTS if segments.point[0].size < _WIDE else _ATTEMPTS_IF_WIDE:
        step, last = attempt.step * segments.scale, attempt is _LONG[-1]
        if best and not last and all(best[name].noisy(tolerance, step) for name in still):
            continue
        above, below = segments.values(attempt.step, -attempt.step)
        derivatives = segments.derivatives(attempt)
        for name in list(still):
            value, expected = f"value/{name}", derivatives[f"gradient/{name}/{segments.layer}"]
            found = _agreement(above[value], below[value], expected, step, skip_lost=last)
            best[name] = _better(best.get(name), found, tolerance)
            beyond = found.residual - _INSIDE * found.rounding
            hopeless = beyond > _HOPELESS.get(attempt.points, np.inf) * tolerance
            if found.within(tolerance) or hopeless:
                best[name] = found
                still.remove(name)
        if not still:
            break
    return best


def _better(best: Agreement | None, found: Agreement, tolerance: float) -> Agreement:
    """The agreement with the smaller residual, of those that are not noisy if there is one."""
    return min(best or found, found, key=lambda one: (one.noisy(tolerance, one.step), one.residual))


def best_at_the_point(segments: Segments, target: str, tolerance: float) -> Agreement:
    """The best agreement over steps with the gradient at the point, where the differences to both sides agree best."""
    value = f"value/{target}"
    best: Agreement | None = None
    at = segments.values(0.0)[0][value]
    expected = segments.derivatives(Attempt(0.0, 1))[f"gradient/{target}/{segments.layer}"]
    for step in _STEPS:
        above, below = (found[value] for found in segments.values(step, -step))
        bend = np.abs(above - 2 * at + below)
        found = _agreement(above, below, expected, step * segments.scale, bend <= np.median(bend))
        best = _better(best, found, tolerance)
        if best.within(tolerance):
            break
    assert best is not None
    return best


def _agreement(
    above: NDArray[np.float64],
    below: NDArray[np.float64],
    expected: NDArray[np.float64],
    step: float,
    chosen: NDArray[np.bool_] | None = None,
    *,
    skip_lost: bool = False,
) -> Agreement:
    """Compares [h(a + εu) - h(a - εu)] / 2ε with derivatives, all [k, n], where they are chosen.

    `skip_lost` counts changes that are lost in rounding, by either account, as equal.
    """
    measured = (above - below) / (2 * step)
    rounding = _ROUNDING * np.maximum(np.abs(above), np.abs(below)).max(axis=0) / (2 * step)
    size = np.sqrt(np.mean(np.square(expected), axis=0))
    chosen = np.ones(measured.shape, bool) if chosen is None else chosen
    if skip_lost:
        measured = np.where(np.maximum(np.abs(measured), np.abs(expected)) <= rounding, expected, measured)
        rounding = np.zeros_like(rounding)  # nothing better follows
    difference = np.abs(measured - expected)
    unit = np.where(size > 0, size, 1.0)
    return Agreement(
        step,
        _median(difference, size, chosen),
        _cosine((expected / unit)[chosen], (measured / unit)[chosen]),
        _median(np.where(difference > 0, rounding, 0), size, chosen),
    )


def _median(difference: NDArray[np.float64], size: NDArray[np.float64], chosen: NDArray[np.bool_]) -> float:
    """The median of differences [k, n] relative to sizes [n]; infinite where a number is not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(difference == 0, 0.0, difference / size)[chosen]
    return float(np.median(np.where(np.isnan(relative), np.inf, relative))) if relative.size else 0.0


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The cosine of two arrays; 1 if both are zero, and 0 if only one is."""
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if 0 < norms < np.inf:
        return float((a * b).sum() / norms)
    return float(a.any() == b.any())
