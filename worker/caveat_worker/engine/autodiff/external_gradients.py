"""Gradient graphs from outside, such as a training framework: reading them, and comparing them with the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from caveat_worker.engine.autodiff.gradient_check import TOLERANCE, GradientCheck, check_external_gradients
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.noise import noise_for, noises
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import Graph, prune
from caveat_worker.engine.onnx.read import attach, read_ir, read_proto
from caveat_worker.engine.onnx.session import open_session

NAMES = "gradient/TARGET/TENSOR"
"""The names of a gradient graph's outputs."""
_EXPORT = f"Export it with outputs named {NAMES}, as `caveat differentiate` writes them."


@dataclass(frozen=True)
class ExternalGradients:
    """A graph that reads the model's inputs, and the tensors for which it has gradients, by target."""

    graph: Graph
    tensors: Mapping[str, tuple[str, ...]]
    batch: int | None
    """The only batch size of the graph; None if it takes any."""

    def of(self, targets: Iterable[str], tensors: Sequence[str]) -> Graph:
        """The graph with only the gradients of these targets at these tensors as its outputs."""
        model = self.graph.ir.clone()
        wanted = {f"gradient/{target}/{tensor}" for target in targets for tensor in tensors}
        return Graph(prune(model, [value for value in model.graph.outputs if value.name in wanted]))

    def common(self, targets: Iterable[str]) -> tuple[str, ...]:
        """The tensors with a gradient for every one of these targets; raises `InvalidInput` if a target has none."""
        for target in targets:
            if target not in self.tensors:
                raise InvalidInput(
                    "gradient-not-supplied",
                    f"The gradient graph has nothing for target '{target}'; it has {_listed(self.tensors)}.",
                    _EXPORT,
                )
        first, *others = [self.tensors[target] for target in targets]
        return tuple(tensor for tensor in first if all(tensor in other for other in others))


def read_external_gradients(source: Path | bytes, model: Model) -> ExternalGradients:
    """Reads the gradient graph of a model; raises `InvalidInput` if its inputs or outputs do not fit the model."""
    proto, files = read_proto(source)
    graph = Graph(read_ir(proto))
    attach(graph.ir, files)
    types = {one.name: one.dtype for one in model.inputs}
    for one in graph.inputs:
        if types.get(one.name) != one.dtype:
            raise InvalidInput(
                "gradient-reads-other-inputs",
                f"The gradient graph reads '{one.name}' as {one.dtype}; the model reads "
                f"{', '.join(f'{name} as {kind}' for name, kind in types.items())}.",
                "Export it with the model's own inputs, under the names that they have there.",
            )
    tensors: dict[str, list[str]] = {}
    for output in graph.outputs:
        kind, _, rest = output.name.partition("/")
        target, _, tensor = rest.partition("/")
        if kind == "gradient" and tensor:
            if model.value(tensor) is None:
                raise InvalidInput(
                    "gradient-of-nothing", f"The model has no tensor '{tensor}' as '{output.name}'.", _EXPORT
                )
            tensors.setdefault(target, []).append(tensor)
    if not tensors:
        raise InvalidInput("no-gradients", f"The gradient graph has the outputs {_listed(graph.outputs)}.", _EXPORT)
    sizes = {one.shape[0] for one in graph.inputs if one.shape}
    fixed = next((size for size in sizes if isinstance(size, int)), None)
    if fixed not in (None, 1) and model.symbolic_batch:
        raise InvalidInput(
            "gradient-batch-fixed",
            f"The gradient graph takes batches of exactly {fixed}.",
            "Export it for a batch of any size, or of 1.",
        )
    return ExternalGradients(graph, {target: tuple(names) for target, names in tensors.items()}, fixed)


def verify(
    external: ExternalGradients, model: Model, targets: Sequence[Target], *, seed: int = 0
) -> tuple[GradientCheck, ...]:
    """Compares every gradient with finite differences of the model on noise; raises `InvalidInput` for a wrong one."""
    checks: list[GradientCheck] = []
    for feeds in noises(model.ir, seed=seed) if external.batch is None else [noise_for(model.ir, batch=1, seed=seed)]:
        try:
            for target in targets:
                tensors = external.common([target.name])
                claimed = open_session(external.of([target.name], tensors), threads=1).run(feeds or {})
                checks += check_external_gradients(model, tensors, [target], feeds or {}, claimed, seed=seed)
            break
        except InvalidInput as error:
            if error.code != "model-does-not-run":
                raise
    if not checks:
        raise InvalidInput(
            "gradient-not-verified",
            "The gradient graph and the model run together on no noise, so it cannot be verified.",
            "Name it in an audit instead, where it is compared on the audit's own examples.",
        )
    refuse_wrong(checks, TOLERANCE)
    return tuple(checks)


def refuse_wrong(checks: Iterable[GradientCheck], tolerance: float) -> None:
    """Raises `InvalidInput` with the figures of the first gradient that disagrees with finite differences."""
    for check in checks:
        if not check.ok:
            raise InvalidInput(
                "supplied-gradient-wrong",
                f"The supplied gradient of '{check.target}' at '{check.layer}' is wrong: along random directions it is "
                f"off finite differences of the model by {check.residual:.2g} of its size (tolerance {tolerance:g}), "
                f"with a cosine of {check.cosine:.3f}.",
                "Differentiate the target's own number (a logit, before any softmax), summed and not averaged over the "
                "batch, by the tensor that the model's file has under this name.",
            )


def _listed(names: Iterable[object]) -> str:
    return ", ".join(f"'{getattr(name, 'name', name)}'" for name in names) or "none"
