"""Compares gradients with central finite differences of the forward graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
_STEPS = (1e-3, 3e-4, 1e-4, 3e-3, 1e-2, 3e-5, 1e-5)  # relative to the activations' scale; tried until one agrees
_JITTER = np.float32(0.1)  # relative too: moves the point off ties, such as a Relu's zeros before a MaxPool
_WIDE, _STEPS_OF_WIDE = 10_000, (3e-4, 1e-4, 1e-3, 3e-5, 3e-3, 1e-5, 1e-2)
"""In many dimensions a step crosses more kinks: of 73 such layers of trained networks 40 agreed at 1e-3, 51 at 3e-4."""


@dataclass(frozen=True)
class GradientCheck:
    """How well ∇h·u agrees with [h(a + εu) - h(a - εu)] / 2ε over examples and random directions u.

    `cosine` is the cosine of the two; `residual` is the median absolute difference, divided by the root mean square of
    ∇h·u; `step` is ε; `suspect` names the operators that read the layer, if the check fails.
    """

    layer: str
    target: str
    cosine: float
    residual: float
    step: float
    ok: bool
    suspect: str | None


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

    The graph from the layer on is compared with itself near the activations: away from ties, and with several steps,
    because a Relu or a maximum can switch within a step; a wrong gradient agrees at no step. The audit's own gradients
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
        reference = own.run(seen)
        x, rng, scale = seen[name], np.random.default_rng(seed), np.float32(_scale(seen[name]))
        off, u = rng.standard_normal(x.shape, np.float32), rng.standard_normal((directions, *x.shape), np.float32)
        point = x + _JITTER * scale * off
        at = backward.run({**seen, name: point})
        if not all(np.isfinite(value).all() for value in at.values()):  # a negative variance, say: keep the signs
            point, u = x + _JITTER * np.abs(x) * off, u * np.abs(x) / scale
            at = backward.run({**seen, name: point})
        measured = list(_differences(forward, name, {**seen, name: point}, u, at, float(scale), targets, tolerance))
        for target in targets:
            output = f"gradient/{target.name}/{name}"
            check = _compare(name, target.name, measured, tolerance)
            drift = _relative(claimed[output] - reference[output], claimed[output])
            ok = check.ok and drift <= tolerance
            checks.append(replace(check, ok=ok, suspect=None if ok else _readers(model, name)))
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

    The point cannot be moved off ties, because the external graph starts at the inputs. Activations that are exactly
    zero are therefore moved by the same amount, so a maximum over them has the same derivative however it breaks ties.
    Raises `InvalidInput` for a gradient whose shape is not its tensor's.
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
            measured = list(_differences(forward, name, seen, u, claimed, _scale(x), [target], tolerance))
            checks.append(_compare(name, target.name, measured, tolerance))
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
class _FiniteDifference:
    """One step size: the directions [k, n, ...], the gradients at the point, and the values a step above and below."""

    step: float
    directions: NDArray[np.float32]
    at: Mapping[str, NDArray[Any]]
    above: list[dict[str, NDArray[Any]]]
    below: list[dict[str, NDArray[Any]]]

    def derivatives(self, target: str) -> NDArray[np.float64]:
        """The central differences along each direction for each example [k, n]."""
        value, (k, n) = f"value/{target}", self.directions.shape[:2]
        rises = [up[value].astype(np.float64) - down[value] for up, down in zip(self.above, self.below, strict=True)]
        return np.stack(rises).reshape(k, n) / (2 * self.step)


def _named(model: Model, layers: Sequence[str]) -> tuple[list[str], list[str]]:
    """The layers' tensors, and the ones among them that are not inputs of the model."""
    names = list(dict.fromkeys(find_layer(model, layer) for layer in layers))
    return names, [name for name in names if name not in {t.name for t in model.inputs}]


def _scale(activations: NDArray[Any]) -> float:
    """The root mean square of the finite activations, or 1 if it is 0; a mask has -inf."""
    finite = activations[np.isfinite(activations)]
    return (float(np.sqrt(np.mean(np.square(finite, dtype=np.float64)))) if finite.size else 0.0) or 1.0


def _differences(
    forward: Session,
    layer: str,
    seen: Mapping[str, NDArray[Any]],
    u: NDArray[np.float32],
    at: Mapping[str, NDArray[Any]],
    scale: float,
    targets: Sequence[Target],
    tolerance: float,
) -> Iterator[_FiniteDifference]:
    """Yields differences along u [k, n, ...] for one step after another, until each target's agrees with `at` once."""
    point = seen[layer]
    open_targets = {target.name for target in targets}
    steps = _STEPS if point[0].size < _WIDE else _STEPS_OF_WIDE
    for step in (np.float32(relative * scale) for relative in steps):
        above = [forward.run({**seen, layer: point + step * d}) for d in u]
        below = [forward.run({**seen, layer: point - step * d}) for d in u]
        difference = _FiniteDifference(float(step), u, at, above, below)
        yield difference
        open_targets -= {name for name in open_targets if _compare(layer, name, [difference], tolerance).ok}
        if not open_targets:
            return


def _compare(layer: str, target: str, differences: list[_FiniteDifference], tolerance: float) -> GradientCheck:
    """The best agreement of the gradient with one step, or with the mean of two or three neighbouring steps.

    The mean helps because kinks and rounding put each step off in its own way.
    """
    gradient, directions = differences[0].at[f"gradient/{target}/{layer}"], differences[0].directions
    n = directions.shape[1]
    expected = np.stack([(d.astype(np.float64) * gradient).reshape(n, -1).sum(axis=-1) for d in directions])  # [k, n]
    steps = [(one.step, one.derivatives(target)) for one in sorted(differences, key=lambda one: one.step)]
    found = []
    for near in (steps[i : i + width] for width in (1, 2, 3) for i in range(len(steps) - width + 1)):
        measured = np.mean([derivatives for _, derivatives in near], axis=0)
        norms = float(np.linalg.norm(expected) * np.linalg.norm(measured))
        cosine = (
            float((expected * measured).sum() / norms)
            if 0 < norms < np.inf
            else float(expected.any() == measured.any())
        )
        found.append((_relative(expected - measured, expected), cosine, near[0][0]))
    residual, cosine, step = min(found, key=lambda one: one[0] + 1 - one[1])
    return GradientCheck(layer, target, cosine, residual, step, residual <= tolerance and cosine >= 0.9, None)


def _relative(difference: NDArray[Any], to: NDArray[Any]) -> float:
    """The median absolute difference, divided by the root mean square of `to`; infinite if either is not finite."""
    size = float(np.sqrt(np.mean(np.square(to, dtype=np.float64)))) if to.size else 0.0
    median = float(np.median(np.abs(difference))) if difference.size else 0.0
    if not np.isfinite(median + size):
        return float("inf")
    return median / size if size else float(median > 0)


def _readers(model: Model, layer: str) -> str:
    """The operators that read a layer: the first suspects if its gradient is wrong."""
    value = model.value(layer)
    consumers = value.consumers() if value is not None else ()
    return ", ".join(sorted({f"{node.op_type} '{node.name}'" for node in consumers})) or "the target"
