"""A graph of gradients that was made elsewhere: what it must be, and how it is found to be right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .check import TOLERANCE, GradientCheck, check_claims
from .errors import Refused
from .graph import Graph, prune
from .model import Model, noise_for, noises, read_ir, read_proto
from .session import open_session
from .target import Target

NAMES = "gradient/TARGET/TENSOR"
"""What its outputs are called."""
_EXPORT = f"Export it with outputs named {NAMES}, as `caveat differentiate` writes them."


@dataclass(frozen=True)
class Supplied:
    """A graph that reads the model's inputs, and the tensors whose gradient it yields, by targets' names."""

    graph: Graph
    tensors: Mapping[str, tuple[str, ...]]
    batch: int | None
    """The only batch size that it takes; None where it takes any."""

    def of(self, targets: Iterable[str], tensors: Sequence[str]) -> Graph:
        """The graph cut down to these targets' gradients at these tensors."""
        model = self.graph.ir.clone()
        wanted = {f"gradient/{target}/{tensor}" for target in targets for tensor in tensors}
        return Graph(prune(model, [value for value in model.graph.outputs if value.name in wanted]))

    def common(self, targets: Iterable[str]) -> tuple[str, ...]:
        """The tensors whose gradient it yields for each of these targets; raises `Refused` where a target has none."""
        for target in targets:
            if target not in self.tensors:
                raise Refused(
                    "gradient-not-supplied",
                    f"The gradient graph has nothing for target '{target}'; it has {_listed(self.tensors)}.",
                    _EXPORT,
                )
        first, *others = [self.tensors[target] for target in targets]
        return tuple(tensor for tensor in first if all(tensor in other for other in others))


def read_supplied(source: Path | bytes, model: Model) -> Supplied:
    """Reads a gradient graph that belongs to a model; `Refused` says what is wrong with it."""
    graph = Graph(read_ir(read_proto(source)))
    taken = {one.name: one.dtype for one in model.inputs}
    for one in graph.inputs:
        if taken.get(one.name) != one.dtype:
            raise Refused(
                "gradient-reads-other-inputs",
                f"The gradient graph reads '{one.name}' as {one.dtype}; the model reads "
                f"{', '.join(f'{name} as {kind}' for name, kind in taken.items())}.",
                "Export it with the model's own inputs, under the names that they have there.",
            )
    tensors: dict[str, list[str]] = {}
    for output in graph.outputs:
        kind, _, rest = output.name.partition("/")
        target, _, tensor = rest.partition("/")
        if kind == "gradient" and tensor:
            if model.value(tensor) is None:
                raise Refused("gradient-of-nothing", f"The model has no tensor '{tensor}' as '{output.name}'.", _EXPORT)
            tensors.setdefault(target, []).append(tensor)
    if not tensors:
        raise Refused("no-gradients", f"The gradient graph has the outputs {_listed(graph.outputs)}.", _EXPORT)
    sizes = {one.shape[0] for one in graph.inputs if one.shape}
    fixed = next((size for size in sizes if isinstance(size, int)), None)
    if fixed not in (None, 1) and model.symbolic_batch:
        raise Refused(
            "gradient-batch-fixed",
            f"The gradient graph takes batches of exactly {fixed}.",
            "Export it for a batch of any size, or of 1.",
        )
    return Supplied(graph, {target: tuple(names) for target, names in tensors.items()}, fixed)


def verify(supplied: Supplied, model: Model, targets: Sequence[Target], *, seed: int = 0) -> tuple[GradientCheck, ...]:
    """Compares every gradient with finite differences of the model on noise; raises `Refused` if one is wrong."""
    checks: list[GradientCheck] = []
    for feeds in noises(model.ir, seed=seed) if supplied.batch is None else [noise_for(model.ir, batch=1, seed=seed)]:
        try:
            for target in targets:
                tensors = supplied.common([target.name])
                claimed = open_session(supplied.of([target.name], tensors), threads=1).run(feeds or {})
                checks += check_claims(model, tensors, [target], feeds or {}, claimed, seed=seed)
            break
        except Refused as refused:
            if refused.code != "model-does-not-run":
                raise
    if not checks:
        raise Refused(
            "gradient-not-verified",
            "The gradient graph and the model run together on no noise, so it cannot be verified.",
            "Name it in an audit instead, where it is compared on the audit's own examples.",
        )
    refuse_wrong(checks, TOLERANCE)
    return tuple(checks)


def refuse_wrong(checks: Iterable[GradientCheck], tolerance: float) -> None:
    """Raises `Refused` with the figures of the first supplied gradient that disagrees."""
    for check in checks:
        if not check.ok:
            raise Refused(
                "supplied-gradient-wrong",
                f"The supplied gradient of '{check.target}' at '{check.layer}' is wrong: along random directions it is "
                f"off finite differences of the model by {check.residual:.2g} of its size (tolerance {tolerance:g}), "
                f"with a cosine of {check.cosine:.3f}.",
                "Differentiate the target's own number (a logit, before any softmax), summed and not averaged over the "
                "batch, by the tensor that the model's file has under this name.",
            )


def _listed(names: Iterable[object]) -> str:
    return ", ".join(f"'{getattr(name, 'name', name)}'" for name in names) or "none"
