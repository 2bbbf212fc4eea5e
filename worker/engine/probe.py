"""A plan and batches of examples → activations, gradients and outputs; each example goes through the model once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from worker.engine.check import GradientCheck, check_gradients
from worker.engine.differentiate import differentiate
from worker.engine.errors import Refused
from worker.engine.plan import Plan
from worker.engine.reduction import reduced, reduced_gradient
from worker.engine.session import open_session

Floats = NDArray[np.float32]
Provider = Literal["cpu", "cuda"]
Allocate = Callable[[tuple[int, ...]], Floats]
"""Gives an uninitialised float32 array: in memory, or in a file once the budget is spent."""

ACTIVATION_BYTES = 256 * 2**20
"""What one batch's layers and gradients may take."""
CHECKED_EXAMPLES = 4


@dataclass(frozen=True)
class Batch:
    """Consecutive examples of one set: the model's input [n, …], and the examples' names."""

    start: int
    names: tuple[str, ...]
    values: NDArray[Any]


@dataclass(frozen=True)
class Seen:
    """What the model did with the examples."""

    activations: dict[str, Floats] = field(default_factory=dict)
    """Layer → features [N, d] of all examples that have a place in `Plan.places`."""
    gradients: dict[tuple[str, str], Floats] = field(default_factory=dict)
    """(target, layer) → ∂h/∂a [m, d] at the target's examples."""
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Target → its number h [m] at its examples."""
    outputs: dict[tuple[str, str], NDArray[np.float64]] = field(default_factory=dict)
    """(example set, target) → the whole tensor the target is read from, [n, classes]."""
    checks: tuple[GradientCheck, ...] = ()


def probe(
    plan: Plan,
    counts: Mapping[str, int],
    batches: Callable[[str, int], Iterable[Batch]],
    allocate: Allocate,
    *,
    provider: Provider,
    threads: int,
    progress: Callable[[int], None],
) -> Seen:
    """Runs the model over every example set that the plan needs.

    `batches(set, size)` yields a set's examples in order; `progress` hears of each example that is done. Raises
    `Refused` for numbers that are not finite (naming the example) and for gradients that fail their check.
    """
    seen = Seen(checks=_checked(plan, batches, provider=provider, threads=threads))
    size = batch_size(plan)
    for name, need in plan.needs.items():
        graph = differentiate(
            plan.model,
            [layer.tensor for layer in plan.layers] if need.gradients else [],
            [plan.targets[target] for target in need.gradients],
            also=_also(plan, name),
        )
        session = open_session(graph, provider=provider, threads=threads)
        for batch in batches(name, size):
            found = session.run({plan.input.name: batch.values})
            _check_finite(found, name, batch)
            _keep(seen, plan, name, counts[name], batch, found, allocate)
            progress(len(batch.names))
    return seen


def batch_size(plan: Plan) -> int:
    """As many examples as keep a batch's layers and gradients within bounds; one where the batch is fixed."""
    if not plan.model.symbolic_batch:
        return 1
    floats = sum(
        int(np.prod([size if isinstance(size, int) else 64 for size in layer.shape[1:]])) * (1 + len(plan.targets))
        for layer in plan.layers
    ) + int(np.prod([size if isinstance(size, int) else 224 for size in plan.input.shape[1:]]))
    return int(np.clip(ACTIVATION_BYTES // (4 * floats), 1, 16 if len(plan.input.shape) > 2 else 1024))


def _also(plan: Plan, name: str) -> list[str]:
    """The tensors that are read beside gradients: layers, and the targets' whole outputs."""
    need = plan.needs[name]
    layers = [layer.tensor for layer in plan.layers] if need.activations else []
    return list(dict.fromkeys([*layers, *(plan.resolved[target].tensor for target in need.outputs)]))


def _keep(
    seen: Seen,
    plan: Plan,
    name: str,
    count: int,
    batch: Batch,
    found: Mapping[str, Floats],
    allocate: Allocate,
) -> None:
    """Puts one batch's results where they belong."""
    need = plan.needs[name]
    rows = slice(batch.start, batch.start + len(batch.names))
    for layer in plan.layers if need.activations else ():
        values = reduced(found[layer.tensor], layer.reduce)
        if layer.name not in seen.activations:
            seen.activations[layer.name] = allocate((plan.examples, values.shape[1]))
        seen.activations[layer.name][plan.places[name]][rows] = values
    for target in need.gradients:
        seen.values.setdefault(target, np.empty(count))[rows] = found[f"value/{target}"].reshape(-1)
        for layer in plan.layers:
            gradient = reduced_gradient(found[f"gradient/{target}/{layer.tensor}"], found[layer.tensor], layer.reduce)
            if (target, layer.name) not in seen.gradients:
                seen.gradients[target, layer.name] = allocate((count, gradient.shape[1]))
            seen.gradients[target, layer.name][rows] = gradient
    for target in need.outputs:
        output = found[plan.resolved[target].tensor].reshape(len(batch.names), -1)
        seen.outputs.setdefault((name, target), np.empty((count, output.shape[1])))[rows] = output


def _check_finite(found: Mapping[str, Floats], name: str, batch: Batch) -> None:
    """No NaN and no infinity goes on; raises `Refused` that names the tensor and the example."""
    for tensor, values in found.items():
        finite = np.isfinite(values.reshape(len(batch.names), -1)).all(axis=1)
        if not finite.all():
            example = batch.names[int(np.argmin(finite))]
            raise Refused(
                "not-finite",
                f"'{tensor}' is not a finite number for example '{example}' of '{name}'.",
                "Check the example and its preprocessing; if they are right, the model overflows there.",
                f"/examples/{name}",
            )


def _checked(
    plan: Plan, batches: Callable[[str, int], Iterable[Batch]], *, provider: Provider, threads: int
) -> tuple[GradientCheck, ...]:
    """Gradients against finite differences of the forward graph at a few examples; raises `Refused` if they differ."""
    checks: list[GradientCheck] = []
    method = plan.audit.method
    for name, need in plan.needs.items():
        if not need.gradients:
            continue
        first = next(iter(batches(name, CHECKED_EXAMPLES if plan.model.symbolic_batch else 1)))
        checks += check_gradients(
            plan.model,
            [layer.tensor for layer in plan.layers],
            [plan.targets[target] for target in need.gradients],
            {plan.input.name: first.values},
            seed=method.seed,
            tolerance=method.gradient_tolerance,
        )
    for check in checks:
        if not check.ok:
            raise Refused(
                "gradient-check-failed",
                f"The gradient of '{check.target}' at layer '{check.layer}' differs from finite differences by "
                f"{check.residual:.2g} of its size (tolerance {method.gradient_tolerance:g}); it is read by {check.suspect}.",
                "Choose another layer, or report the model: no figure is given on a gradient that may be wrong.",
                "/layers",
            )
    return tuple(checks)
