"""Compares gradients with how the forward graph's output changes along short random segments.

For any path from b to a, h(a) - h(b) is the integral of ∇h along it, also where the path crosses kinks: a Relu that
switches changes the gradient on the way, and the integral with it. So the gradient is added up along a segment and
compared with the difference of the values at its ends. With one point in the middle this is a central difference; where
kinks put that off, more points follow, and a right gradient comes as near as one likes. A wrong one does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.autodiff.differentiate import cut_at, differentiate, expose, find_layer, opened_at
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.noise import noises
from caveat_worker.engine.autodiff.rules import VJP, Table
from caveat_worker.engine.autodiff.straight_through import without_rounding
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.session import Session, open_session

TOLERANCE = 0.02
_JITTER = np.float32(0.1)  # relative to the activations' scale: moves points off ties, such as zeros before a MaxPool
_ROUNDING = 16 * float(np.finfo(np.float32).eps)  # of h: the error that float32 leaves in a difference of two values
_HOPELESS = {8: 10.0, 32: 1.0}
"""Points → tolerances: a gradient that is off by more with so many points, beyond rounding, is wrong."""


@dataclass(frozen=True)
class _Attempt:
    """Half a segment's length, relative to the activations' scale, and the points on it where the gradient is taken."""

    step: float
    points: int


_REFINED = (_Attempt(3e-4, 4), _Attempt(1e-3, 8), _Attempt(1e-3, 32), _Attempt(1e-2, 64), _Attempt(1e-1, 64))
_ATTEMPTS = (_Attempt(1e-3, 1), _Attempt(3e-4, 1), _Attempt(1e-4, 1), *_REFINED)
"""Tried until one agrees. A short segment crosses few kinks; a long one is tried where rounding hides a short one."""
_WIDE, _ATTEMPTS_IF_WIDE = 10_000, (_Attempt(3e-4, 1), _Attempt(1e-4, 1), _Attempt(1e-3, 1), *_REFINED)
"""From so many features on, even 1e-3 crosses many kinks."""
_STEPS = (1e-3, 3e-4, 1e-4, 3e-3, 1e-2, 3e-5, 1e-5)
"""Steps for an external gradient, which is known at the activations alone."""


@dataclass(frozen=True)
class GradientCheck:
    """How well a gradient agrees with the forward graph, over examples and random directions u.

    For each direction and example, the mean of ∇h·u along a segment [a - εu, a + εu] is compared with
    [h(a + εu) - h(a - εu)] / 2ε. `residual` is the median absolute difference, each divided by the example's root mean
    square of ∇h·u over the directions; `cosine` is the cosine of the two; `step` is ε. `drift` is how far the gradient
    of the whole graph is from that of the graph from the layer on, in the same way. `suspect` names the operators that
    read the layer, if the check fails.
    """

    layer: str
    target: str
    cosine: float
    residual: float
    step: float
    ok: bool
    suspect: str | None
    drift: float = 0.0

    def explain(self, tolerance: float) -> str:
        """Why a check failed, as a sentence."""
        if self.drift > tolerance:
            return (
                f"The gradient of '{self.target}' at layer '{self.layer}' is not the same in the whole model and in "
                f"the part of it behind the layer: the two differ by {self.drift:.2g} of their size "
                f"(tolerance {tolerance:g})."
            )
        return (
            f"The gradient of '{self.target}' at layer '{self.layer}' does not add up to how '{self.target}' changes: "
            f"along random directions it is off by {self.residual:.2g} of its size (tolerance {tolerance:g}), with a "
            f"cosine of {self.cosine:.3f}. The layer is read by {self.suspect}."
        )


def check_gradients(
    model: Model,
    layers: Sequence[str],
    targets: Sequence[Target],
    feeds: Mapping[str, NDArray[Any]],
    *,
    seed: int,
    directions: int = 4,
    tolerance: float = TOLERANCE,
    threads: int = 1,
    rules: Table = VJP,
    claimed: Mapping[str, NDArray[Any]] | None = None,
) -> tuple[GradientCheck, ...]:
    """Checks the gradient of every target at every layer on a few examples; one check for each layer and target.

    The graph from the layer on is compared with itself near the activations, away from ties. The audit's own gradients
    then have to equal that graph's at the activations. A quantised model is compared without its rounding, which no
    finite difference passes. `claimed` holds those gradients and the layers' activations, by
    output name, if they have been computed already.
    """
    names, hidden = _named(model, layers)
    if claimed is None:
        whole = differentiate(model, names, targets, also=hidden, rules=rules)
        claimed = open_session(whole, threads=threads).run(feeds)
    seen = {**feeds, **{name: claimed[name] for name in hidden}}
    checks, smooth = [], without_rounding(model)
    for name in names:
        backward = open_session(differentiate(opened_at(smooth, name), [name], targets, rules=rules), threads=threads)
        forward = open_session(cut_at(smooth, name, targets), threads=threads)
        own = backward
        if smooth is not model:  # a quantised model: its own gradients are compared with the rounded graph's
            own = open_session(differentiate(opened_at(model, name), [name], targets, rules=rules), threads=threads)
        segments = _segments(name, seen, forward, backward, np.random.default_rng(seed), directions)
        found, reference = _best_agreements(segments, targets, tolerance), own.run(seen)
        for target in targets:
            best, output = found[target.name], f"gradient/{target.name}/{name}"
            drift = _relative(claimed[output] - reference[output], claimed[output])
            ok = best.within(tolerance) and drift <= tolerance
            suspect = None if ok else readers(model, name)
            checks.append(
                GradientCheck(name, target.name, best.cosine, best.residual, best.step, ok, suspect, drift=drift)
            )
    return tuple(checks)


def check_external_gradients(
    model: Model,
    layers: Sequence[str],
    targets: Sequence[Target],
    feeds: Mapping[str, NDArray[Any]],
    claimed: Mapping[str, NDArray[Any]],
    *,
    seed: int,
    directions: int = 8,
    tolerance: float = TOLERANCE,
    threads: int = 1,
) -> tuple[GradientCheck, ...]:
    """Checks gradients of an external graph, `gradient/<target>/<layer>` in `claimed`, at the activations themselves.

    The graph starts at the inputs, so its gradient is known at this one point, and differences can only be taken there.
    Of all directions and examples the half counts in which the differences to both sides agree best: there are the
    fewest kinks. Activations that are exactly zero are moved by the same amount, so a maximum over them has the same
    derivative however it breaks ties. Raises `InvalidInput` for a gradient whose shape is not its tensor's.
    """
    names, hidden = _named(model, layers)
    seen = {**feeds, **(open_session(expose(model, hidden), threads=threads).run(feeds) if hidden else {})}
    checks, smooth = [], without_rounding(model)
    for name in names:
        forward = open_session(cut_at(smooth, name, targets), threads=threads)
        x, rng = seen[name], np.random.default_rng(seed)
        together = rng.standard_normal((directions, len(x), *[1] * (x.ndim - 1)), np.float32)
        u = np.where(x == 0, together, rng.standard_normal((directions, *x.shape), np.float32))
        for target in targets:
            output = f"gradient/{target.name}/{name}"
            if claimed[output].shape != x.shape:
                raise InvalidInput(
                    "gradient-shape",
                    f"The supplied '{output}' has the shape {list(claimed[output].shape)}; its tensor {list(x.shape)}.",
                    "Yield each gradient in its tensor's own shape.",
                )
            segments = _Segments(name, seen, x, u, _scale(x), forward, None, claimed)
            best = _best_at_the_point(segments, target.name, tolerance)
            ok = best.within(tolerance)
            checks.append(GradientCheck(name, target.name, best.cosine, best.residual, best.step, ok, None))
    return tuple(checks)


def check_on_noise(
    model: Model, layers: Sequence[str], targets: Sequence[Target], *, seed: int = 0
) -> tuple[GradientCheck, ...]:
    """`check_gradients` on seeded noise, for use without examples; empty if the model runs on no noise."""
    for feeds in noises(model.ir, seed=seed):
        try:
            return check_gradients(model, layers, targets, feeds, seed=seed)
        except InvalidInput as error:
            if error.code != "model-does-not-run":  # another size may run
                raise
    return ()


@dataclass(frozen=True)
class _Segments:
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

    def values(self, step: float) -> dict[str, NDArray[np.float64]]:
        """Each target's value a step along every direction [k, n], by output name."""
        size, n = np.float32(step * self.scale), len(self.point)
        runs = [self.forward.run({**self.feeds, self.layer: self.point + size * u}) for u in self.directions]
        return {name: np.stack([run[name].reshape(n) for run in runs]).astype(np.float64) for name in runs[0]}

    def derivatives(self, attempt: _Attempt) -> dict[str, NDArray[np.float64]]:
        """The mean of ∇h·u along each segment [k, n], by the name of the gradient's output."""
        if attempt.points == 1 or self.backward is None:
            return {
                name: np.stack([_dot(gradient, u) for u in self.directions])
                for name, gradient in self.at.items()
                if name.startswith("gradient/") and gradient.shape == self.point.shape
            }
        found: dict[str, list[NDArray[np.float64]]] = {}
        for u in self.directions:
            for along in (2 * np.arange(attempt.points) + 1) / attempt.points - 1:
                size = np.float32(along * attempt.step * self.scale)
                run = self.backward.run({**self.feeds, self.layer: self.point + size * u})
                for name, gradient in run.items():
                    if name.startswith("gradient/"):
                        found.setdefault(name, []).append(_dot(gradient, u))
        each = (len(self.directions), attempt.points, len(self.point))
        return {name: np.stack(dots).reshape(each).mean(axis=1) for name, dots in found.items()}


@dataclass(frozen=True)
class _Agreement:
    """How well derivatives agree at one step; `beyond_rounding` is the residual that rounding cannot explain."""

    step: float
    residual: float
    cosine: float
    beyond_rounding: float

    def within(self, tolerance: float) -> bool:
        return self.residual <= tolerance and self.cosine >= 0.9


def _named(model: Model, layers: Sequence[str]) -> tuple[list[str], list[str]]:
    """The layers' tensors, and the ones among them that are not inputs of the model."""
    names = list(dict.fromkeys(find_layer(model, layer) for layer in layers))
    return names, [name for name in names if name not in {t.name for t in model.inputs}]


def _scale(activations: NDArray[Any]) -> float:
    """The root mean square of the finite activations, or 1 if it is 0; a mask has -inf."""
    finite = activations[np.isfinite(activations)]
    return (float(np.sqrt(np.mean(np.square(finite, dtype=np.float64)))) if finite.size else 0.0) or 1.0


def _dot(gradient: NDArray[Any], u: NDArray[np.float32]) -> NDArray[np.float64]:
    """∇h·u for each example [n]."""
    sums: NDArray[np.float64] = np.einsum(
        "nd,nd->n", gradient.reshape(len(u), -1), u.reshape(len(u), -1), dtype=np.float64
    )
    return sums


def _segments(
    layer: str,
    seen: Mapping[str, NDArray[Any]],
    forward: Session,
    backward: Session,
    rng: np.random.Generator,
    directions: int,
) -> _Segments:
    """Segments through a point beside the activations, off ties."""
    x, scale = seen[layer], _scale(seen[layer])
    off, u = rng.standard_normal(x.shape, np.float32), rng.standard_normal((directions, *x.shape), np.float32)
    point = x + _JITTER * np.float32(scale) * off
    at = backward.run({**seen, layer: point})
    if not all(np.isfinite(value).all() for value in at.values()):  # a negative variance, say: keep the signs
        point, u = x + _JITTER * np.abs(x) * off, u * np.abs(x) / np.float32(scale)
        at = backward.run({**seen, layer: point})
    return _Segments(layer, seen, point, u, scale, forward, backward, at)


def _best_agreements(segments: _Segments, targets: Sequence[Target], tolerance: float) -> dict[str, _Agreement]:
    """The best agreement of each target, from the first attempts up to one that is within the tolerance."""
    best: dict[str, _Agreement] = {}
    still = [target.name for target in targets]
    for attempt in _ATTEMPTS if segments.point[0].size < _WIDE else _ATTEMPTS_IF_WIDE:
        above, below = segments.values(attempt.step), segments.values(-attempt.step)
        derivatives = segments.derivatives(attempt)
        for name in list(still):
            value, expected = f"value/{name}", derivatives[f"gradient/{name}/{segments.layer}"]
            step, last = attempt.step * segments.scale, attempt is _REFINED[-1]
            found = _agreement(above[value], below[value], expected, step, skip_lost=last)
            if name not in best or found.residual < best[name].residual:
                best[name] = found
            hopeless = found.beyond_rounding > _HOPELESS.get(attempt.points, np.inf) * tolerance
            if found.within(tolerance) or hopeless:
                best[name] = found
                still.remove(name)
        if not still:
            break
    return best


def _best_at_the_point(segments: _Segments, target: str, tolerance: float) -> _Agreement:
    """The best agreement over steps with the gradient at the point, where the differences to both sides agree best."""
    value, best = f"value/{target}", None
    at = segments.values(0.0)[value]
    expected = segments.derivatives(_Attempt(0.0, 1))[f"gradient/{target}/{segments.layer}"]
    for step in _STEPS:
        above, below = segments.values(step)[value], segments.values(-step)[value]
        bend = np.abs(above - 2 * at + below)
        found = _agreement(above, below, expected, step * segments.scale, bend <= np.median(bend))
        if best is None or found.residual < best.residual:
            best = found
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
) -> _Agreement:
    """Compares [h(a + εu) - h(a - εu)] / 2ε with derivatives, all [k, n], where they are chosen.

    `skip_lost` counts changes that are lost in rounding, by either account, as equal.
    """
    measured = (above - below) / (2 * step)
    rounding = _ROUNDING * np.maximum(np.abs(above), np.abs(below)).max(axis=0) / (2 * step)
    size = np.sqrt(np.mean(np.square(expected), axis=0))
    chosen = np.ones(measured.shape, bool) if chosen is None else chosen
    difference = np.abs(measured - expected)
    if skip_lost:
        difference[np.maximum(np.abs(measured), np.abs(expected)) <= rounding] = 0
    unit = np.where(size > 0, size, 1.0)
    return _Agreement(
        step,
        _median(difference, size, chosen),
        _cosine((expected / unit)[chosen], (measured / unit)[chosen]),
        _median(np.maximum(difference - rounding, 0), size, chosen),
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


def _relative(difference: NDArray[Any], to: NDArray[Any]) -> float:
    """The median absolute difference, divided by the root mean square of `to`; infinite if either is not finite."""
    size = float(np.sqrt(np.mean(np.square(to, dtype=np.float64)))) if to.size else 0.0
    median = float(np.median(np.abs(difference))) if difference.size else 0.0
    if not np.isfinite(median + size):
        return float("inf")
    return median / size if size else float(median > 0)


def readers(model: Model, layer: str) -> str:
    """The operators that read a layer: the first suspects if its gradient is wrong."""
    value = model.value(layer)
    consumers = value.consumers() if value is not None else ()
    return ", ".join(sorted({f"{node.op_type} '{node.name}'" for node in consumers})) or "the target"
