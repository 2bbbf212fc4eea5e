"""Checks gradients against the forward graph, on a few examples of an audit or on noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.autodiff.differentiate import cut_at, differentiate, expose, find_layer, opened_at
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.noise import noises
from caveat_worker.engine.autodiff.rules import VJP, Table
from caveat_worker.engine.autodiff.segments import (
    LEAST_COSINE,
    Agreement,
    Rows,
    Segments,
    best_agreements,
    best_at_the_point,
    in_parts,
    scale_of,
    segments_beside,
)
from caveat_worker.engine.autodiff.straight_through import without_rounding
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.session import open_session

TOLERANCE = 0.02


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
                f"its part behind the layer: they differ by {self.drift:.2g} of their size (tolerance {tolerance:g})."
            )
        return (
            f"The gradient of '{self.target}' at layer '{self.layer}' does not add up to how '{self.target}' changes: "
            f"along random directions the two differ by {self.residual:.2g} of its size (tolerance {tolerance:g}), "
            f"with a cosine of {self.cosine:.3f} (at least {LEAST_COSINE:g}). The layer is read by {self.suspect}."
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
    rows: Rows | None = None,
    alone: bool = False,
) -> tuple[GradientCheck, ...]:
    """Checks the gradient of every target at every layer on a few examples; one check for each layer and target.

    The graph from the layer on is compared with itself near the activations, away from ties. The audit's own gradients
    then have to equal that graph's at the activations. A quantised model is compared without its rounding, which no
    finite difference passes. What does not agree there has to agree twice as well elsewhere. `claimed` holds those
    gradients and the layers' activations, by output name, if they have been computed already. With `rows`, directions
    share the runs of a model whose examples do not interact; `alone` is as in `differentiate`.
    """
    names, hidden = _named(model, layers)
    if claimed is None:
        whole = differentiate(model, names, targets, also=hidden, rules=rules, alone=alone)
        claimed = open_session(whole, threads=threads).run(feeds)
    seen = {**feeds, **{name: claimed[name] for name in hidden}}
    checks, smooth = [], without_rounding(model)
    for name in names:
        graph = differentiate(opened_at(smooth, name), [name], targets, rules=rules, alone=alone)
        backward = open_session(graph, threads=threads)
        forward = open_session(cut_at(smooth, name, targets, alone=alone), threads=threads)
        own = backward
        if smooth is not model:  # a quantised model: its own gradients are compared with the rounded graph's
            graph = differentiate(opened_at(model, name), [name], targets, rules=rules, alone=alone)
            own = open_session(graph, threads=threads)
        beside = partial(segments_beside, name, seen, forward, backward, directions=directions, rows=rows)
        found = _agreements(beside, [target.name for target in targets], seed, tolerance)
        reference = in_parts(own, seen, rows)
        for target in targets:
            best, output = found[target.name], f"gradient/{target.name}/{name}"
            drift = _relative(claimed[output] - reference[output], claimed[output])
            ok = best.within(tolerance) and drift <= tolerance
            suspect = None if ok else readers(model, name)
            checks.append(
                GradientCheck(name, target.name, best.cosine, best.residual, best.step, ok, suspect, drift=drift)
            )
    return tuple(checks)


def _agreements(
    beside: Callable[[np.random.Generator], Segments], targets: Sequence[str], seed: int, tolerance: float
) -> dict[str, Agreement]:
    """The agreement of each target; one that is not within the tolerance has to be within half of it elsewhere."""
    found = best_agreements(beside(np.random.default_rng(seed)), targets, tolerance)
    left = [name for name, one in found.items() if not one.within(tolerance)]
    if left:
        elsewhere = best_agreements(beside(np.random.default_rng([seed, 1])), left, tolerance / 2)
        found |= {name: one for name, one in elsewhere.items() if one.within(tolerance / 2)}
    return found


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
    fewest kinks. Activations at zero, at the least or at the largest value are moved by the same amount, so a maximum
    over them has the same derivative however it breaks ties. Raises `InvalidInput` for a gradient whose shape is not
    its tensor's.
    """
    names, hidden = _named(model, layers)
    seen = {**feeds, **(open_session(expose(model, hidden), threads=threads).run(feeds) if hidden else {})}
    checks, smooth = [], without_rounding(model)
    for name in names:
        forward = open_session(cut_at(smooth, name, targets), threads=threads)
        x, rng = seen[name], np.random.default_rng(seed)
        together = rng.standard_normal((directions, len(x), *[1] * (x.ndim - 1)), np.float32)
        tied = (x == 0) | (x == x.min()) | (x == x.max())
        u = np.where(tied, together, rng.standard_normal((directions, *x.shape), np.float32))
        for target in targets:
            output = f"gradient/{target.name}/{name}"
            if claimed[output].shape != x.shape:
                raise InvalidInput(
                    "gradient-shape",
                    f"The supplied '{output}' has the shape {list(claimed[output].shape)}; its tensor {list(x.shape)}.",
                    "Yield each gradient in its tensor's own shape.",
                )
            segments = Segments(name, seen, x, u, scale_of(x), forward, None, claimed)
            best = best_at_the_point(segments, target.name, tolerance)
            ok = best.residual <= tolerance and best.cosine >= LEAST_COSINE
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


def _named(model: Model, layers: Sequence[str]) -> tuple[list[str], list[str]]:
    """The layers' tensors, and the ones among them that are not inputs of the model."""
    names = list(dict.fromkeys(find_layer(model, layer) for layer in layers))
    return names, [name for name in names if name not in {t.name for t in model.inputs}]


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
