"""Compares gradients with finite differences of the forward graph, as every audit does with its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backward import Table
from .differentiate import cut_at, differentiate, expose, find_layer, opened_at
from .errors import Refused
from .model import Model, noises
from .rules import VJP
from .session import Session, open_session
from .target import Target

TOLERANCE = 0.02
_STEPS = (1e-3, 3e-4, 1e-4, 3e-3, 1e-2, 3e-5, 1e-5)  # relative to the activations' scale; tried until one agrees
_JITTER = np.float32(0.1)  # likewise: moves the point off ties, such as the zeros that a Relu leaves before a MaxPool
_WIDE, _STEPS_OF_WIDE = 10_000, (3e-4, 1e-4, 1e-3, 3e-5, 3e-3, 1e-5, 1e-2)
"""A step in many dimensions flips more kinks: of 73 such layers of trained networks 40 agreed at 1e-3, 51 at 3e-4."""


@dataclass(frozen=True)
class GradientCheck:
    """How well ∇h·u agrees with [h(a + εu) - h(a - εu)] / 2ε over examples and random directions u.

    `cosine` is between the two; `residual` is the median difference relative to the derivatives' root mean square;
    `suspect` names the operator that made the first layer, counted from the target, that disagrees.
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
    """Checks every layer against every target on a few examples.

    The graph is opened at the layer and compared with itself near the activations: off their ties, and by
    the first step that agrees, since a Relu or a maximum that flips inside a step is no error; a wrong gradient
    agrees at no step. The gradients that the audit uses must then be the same at the activations themselves;
    `claimed` are those, with the layers, where a graph has already given them for these examples.
    """
    names, hidden = _named(model, layers)
    if claimed is None:
        whole = differentiate(model, names, targets, also=hidden, rules=rules)
        claimed = open_session(whole, threads=threads).run(feeds)
    seen = {**feeds, **{name: claimed[name] for name in hidden}}
    checks = []
    for name in names:
        opened = differentiate(opened_at(model, name), [name], targets, rules=rules)
        backward = open_session(opened, threads=threads)
        forward = open_session(cut_at(model, name, targets), threads=threads)
        same = backward.run(seen)
        x, rng, scale = seen[name], np.random.default_rng(seed), np.float32(_scale(seen[name]))
        off, u = rng.standard_normal(x.shape, np.float32), rng.standard_normal((directions, *x.shape), np.float32)
        point = x + _JITTER * scale * off
        at = backward.run({**seen, name: point})
        if not all(np.isfinite(value).all() for value in at.values()):  # a variance under a root, say: stay on its side
            point, u = x + _JITTER * np.abs(x) * off, u * np.abs(x) / scale
            at = backward.run({**seen, name: point})
        probes = list(_differences(forward, name, {**seen, name: point}, u, at, float(scale), targets, tolerance))
        for target in targets:
            output = f"gradient/{target.name}/{name}"
            check = _judge(name, target.name, probes, tolerance)
            drift = _relative(claimed[output] - same[output], claimed[output])
            ok = check.ok and drift <= tolerance
            checks.append(replace(check, ok=ok, suspect=None if ok else _readers(model, name)))
    return tuple(checks)


def check_claims(
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
    """Checks gradients from elsewhere, `gradient/<target>/<layer>` in `claimed`, at the activations themselves.

    No graph can be moved off ties here. Numbers that are exactly zero move together instead, and a maximum among them
    with them, however its tie was shared.
    """
    names, hidden = _named(model, layers)
    seen = {**feeds, **(open_session(expose(model, hidden), threads=threads).run(feeds) if hidden else {})}
    checks = []
    for name in names:
        forward = open_session(cut_at(model, name, targets), threads=threads)
        x, rng = seen[name], np.random.default_rng(seed)
        together = rng.standard_normal((directions, len(x), *[1] * (x.ndim - 1)), np.float32)
        u = np.where(x == 0, together, rng.standard_normal((directions, *x.shape), np.float32))
        for target in targets:
            output = f"gradient/{target.name}/{name}"
            if claimed[output].shape != x.shape:
                raise Refused(
                    "gradient-shape",
                    f"The supplied '{output}' has the shape {list(claimed[output].shape)}; its tensor {list(x.shape)}.",
                    "Yield each gradient in its tensor's own shape.",
                )
            probes = list(_differences(forward, name, seen, u, claimed, _scale(x), [target], tolerance))
            checks.append(_judge(name, target.name, probes, tolerance))
    return tuple(checks)


def check_on_noise(
    model: Model, layers: Sequence[str], targets: Sequence[Target], *, seed: int = 0
) -> tuple[GradientCheck, ...]:
    """The same where there are no examples: on seeded noise, or empty where the model runs on none."""
    for feeds in noises(model.ir, seed=seed):
        try:
            return check_gradients(model, layers, targets, feeds, seed=seed)
        except Refused as refused:
            if refused.code != "model-does-not-run":  # of this size, that is
                raise
    return ()


@dataclass(frozen=True)
class _Probe:
    """One step size: its directions [k, n, ...], and what the graph gave above, below and at the point."""

    step: float
    directions: NDArray[np.float32]
    at: Mapping[str, NDArray[Any]]
    above: list[dict[str, NDArray[Any]]]
    below: list[dict[str, NDArray[Any]]]

    def slopes(self, target: str) -> NDArray[np.float64]:
        """The central differences along each direction at each example [k, n]."""
        value, (k, n) = f"value/{target}", self.directions.shape[:2]
        rises = [up[value].astype(np.float64) - down[value] for up, down in zip(self.above, self.below, strict=True)]
        return np.stack(rises).reshape(k, n) / (2 * self.step)


def _named(model: Model, layers: Sequence[str]) -> tuple[list[str], list[str]]:
    """The layers' tensors, and those among them that are not inputs."""
    names = list(dict.fromkeys(find_layer(model, layer) for layer in layers))
    return names, [name for name in names if name not in {t.name for t in model.inputs}]


def _scale(activations: NDArray[Any]) -> float:
    """Their root mean square, or 1 where all are zero; a mask's -inf does not count."""
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
) -> Iterator[_Probe]:
    """Probes along u [k, n, ...] at one step size after another, until every target agrees with `at` at one of them."""
    point = seen[layer]
    left = {target.name for target in targets}
    steps = _STEPS if point[0].size < _WIDE else _STEPS_OF_WIDE
    for step in (np.float32(relative * scale) for relative in steps):
        above = [forward.run({**seen, layer: point + step * d}) for d in u]
        below = [forward.run({**seen, layer: point - step * d}) for d in u]
        probe = _Probe(float(step), u, at, above, below)
        yield probe
        left -= {name for name in left if _judge(layer, name, [probe], tolerance).ok}
        if not left:
            return


def _judge(layer: str, target: str, probes: list[_Probe], tolerance: float) -> GradientCheck:
    """The step that agrees best, or the mean of neighbouring steps: each is off by its own kinks and rounding."""
    gradient, n = probes[0].at[f"gradient/{target}/{layer}"], probes[0].directions.shape[1]
    expected = np.stack(
        [(d.astype(np.float64) * gradient).reshape(n, -1).sum(axis=-1) for d in probes[0].directions]
    )  # [k, n]
    slopes = [(probe.step, probe.slopes(target)) for probe in sorted(probes, key=lambda probe: probe.step)]
    found = []
    for near in (slopes[i : i + width] for width in (1, 2, 3) for i in range(len(slopes) - width + 1)):
        measured = np.mean([slope for _, slope in near], axis=0)
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
    """The median difference over the root mean square; infinite for NaN."""
    size = float(np.sqrt(np.mean(np.square(to, dtype=np.float64)))) if to.size else 0.0
    median = float(np.median(np.abs(difference))) if difference.size else 0.0
    if not np.isfinite(median + size):
        return float("inf")
    return median / size if size else float(median > 0)


def _readers(model: Model, layer: str) -> str:
    """The operators that read a layer: the first suspects when its gradient is wrong."""
    value = model.value(layer)
    consumers = value.consumers() if value is not None else ()
    return ", ".join(sorted({f"{node.op_type} '{node.name}'" for node in consumers})) or "the target"
