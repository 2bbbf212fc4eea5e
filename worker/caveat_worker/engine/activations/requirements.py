"""What methods require of the model, as data, and the plan that satisfies all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from caveat_spec.audit import Audit
from caveat_worker.engine.autodiff.channels import usual_axis
from caveat_worker.engine.autodiff.external_gradients import ExternalGradients
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.target import Resolved, Target
from caveat_worker.engine.onnx.graph import TensorInfo

ONLY = ""
"""The name of a model's only input, whatever the model calls it."""

Role = Literal["concept", "reference", "target", "pairs", "groups"]
"""The part that an example set plays in an audit; `pairs` are both sides of every matched pair."""


@dataclass(frozen=True)
class InnerProducts:
    """Inner products of activations with each other and with the targets' gradients; the arrays need not be kept."""

    of: tuple[Role, ...]


@dataclass(frozen=True)
class Activations:
    """The audited layers' activations themselves."""

    at: tuple[Role, ...]


@dataclass(frozen=True)
class Gradients:
    """The gradient of each target at the audited layers, at the target's own examples, by a table of rules."""

    rules: str = "vjp"


@dataclass(frozen=True)
class Outputs:
    """The whole output tensor that each target is read from."""

    at: tuple[Role, ...]


@dataclass(frozen=True)
class Values:
    """Each target's number at its own examples."""


@dataclass(frozen=True)
class FiniteSteps:
    """The rest of the model run from each layer after a step towards each concept."""


Requirement: TypeAlias = InnerProducts | Activations | Gradients | Outputs | Values | FiniteSteps
OF_LAYERS = (InnerProducts, Activations, Gradients, FiniteSteps)
"""Requirements that a model without an auditable layer cannot meet."""


@dataclass(frozen=True)
class SetRequirements:
    """What has to be known about one example set: it decides the graph that its examples go through."""

    activations: bool = False
    gradients: tuple[str, ...] = ()
    """Targets whose gradients are taken at these examples."""
    outputs: tuple[str, ...] = ()
    """Targets whose whole output tensor is read."""
    rules: str = "vjp"


@dataclass(frozen=True)
class Requirements:
    """The requirements of several methods, merged."""

    sets: Mapping[str, SetRequirements]
    """By example set, in the audit's order."""
    products: bool = False
    """Whether inner products are read."""
    arrays: bool = False
    """Whether activations and gradients are read themselves, not only their inner products."""
    finite_steps: bool = False


@dataclass(frozen=True)
class Layer:
    """A tensor whose activations become features."""

    name: str
    """As results name it: the tensor, and `@` its pooling where that is not `flatten`."""
    tensor: str
    reduce: str
    operator: str
    shape: tuple[int | str | None, ...]
    depth: int
    chosen: bool
    """Whether Caveat picked it, not the audit."""
    channel_axis: int | None = None
    """The axis of [n, …] that holds channels, as far as an operator says so."""
    mask: str | None = None
    """The input that tells its tokens from padding, where it is reduced over them."""

    @property
    def channels(self) -> int:
        """The axis that is taken for the channels'."""
        return usual_axis(len(self.shape)) if self.channel_axis is None else self.channel_axis


@dataclass(frozen=True)
class Pairing:
    """A concept whose examples have matched pairs: positions in the concept's set and in the set without it."""

    concept: str
    base: str
    with_concept: tuple[int, ...]
    without: tuple[int, ...]


@dataclass(frozen=True)
class LookExamples:
    """What a look of a sequential audit has of the examples, in an order of the seed's."""

    counts: Mapping[str, tuple[int, ...]]
    """Example set → how many of its examples this look has, after those that the looks before it had, each once."""
    alpha: float
    """The whole audit's, which holds for sets that are whole at every look."""


@dataclass(frozen=True)
class Passes:
    """How many examples go through the model: forward, back to the layers, and from a layer to the end."""

    forward: int
    backward: int
    partial: int


@dataclass(frozen=True)
class Plan:
    """One audit with everything settled: layers, targets, pairs, and what is read of which examples."""

    audit: Audit
    model: Model
    inputs: tuple[TensorInfo, ...]
    layers: tuple[Layer, ...]
    targets: Mapping[str, Target]
    resolved: Mapping[str, Resolved]
    requires: Requirements
    row_ranges: Mapping[str, slice]
    """Example set → its rows among all examples whose activations are collected."""
    pairings: Mapping[str, Pairing]
    passes: Passes
    external: ExternalGradients | None = None
    """The graph that gradients come from, where it was made elsewhere."""
    left_out: tuple[str, ...] = ()
    """Methods that the audit implies and that this model cannot be asked, because it has no layer to audit."""
    warnings: tuple[str, ...] = field(default=())
    look: LookExamples | None = None
    """Of a look of a sequential audit."""
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Axis that the model leaves open, by its name → its length in the longest examples."""

    @property
    def needs(self) -> Mapping[str, SetRequirements]:
        """What is read of each example set."""
        return self.requires.sets

    @property
    def examples(self) -> int:
        """How many examples have a row."""
        return max((rows.stop for rows in self.row_ranges.values()), default=0)

    def reduced_at(self, need: SetRequirements) -> tuple[str, ...]:
        """Targets whose number is reduced over positions where no gradient is taken: before their outputs are."""
        return tuple(
            target
            for target in need.outputs
            if self.targets[target].reduce is not None
            and self.resolved[target].link != "two_sigmoids"
            and target not in need.gradients
        )

    def alone(self, need: SetRequirements) -> bool:
        """Whether a large model computes the scores of the targets' classes alone at a set, as nobody reads others."""
        return self.model.weights_in_file and not need.outputs

    def rows(self, examples: str) -> NDArray[np.intp]:
        """The rows [n] of an example set among all examples whose activations are collected."""
        rows = self.row_ranges[examples]
        return np.arange(rows.start, rows.stop)

    def feeds(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Examples as the model takes them: by its inputs' names, in their types."""
        return {
            tensor.name: np.asarray(values[tensor.name if tensor.name in values else ONLY]).astype(
                tensor.dtype, copy=False
            )
            for tensor in self.inputs
        }


def merged(requirements: Iterable[Requirement], audit: Audit, pairings: Mapping[str, Pairing]) -> Requirements:
    """What all methods require together, so that each example goes through the model once.

    Raises ValueError for two tables of rules: a set's gradients are taken by one.
    """
    asked = list(requirements)
    tables = {one.rules for one in asked if isinstance(one, Gradients)} or {"vjp"}
    if len(tables) > 1:
        raise ValueError(f"methods require gradients by several tables of rules: {', '.join(sorted(tables))}")
    activations: set[str] = set()
    gradients: dict[str, list[str]] = {}
    outputs: dict[str, list[str]] = {}
    for one in asked:
        match one:
            case InnerProducts(roles) | Activations(roles):
                activations |= {examples for role in roles for examples, _ in _of_role(role, audit, pairings)}
            case Gradients():
                for examples, targets in _of_role("target", audit, pairings):
                    gradients.setdefault(examples, []).extend(targets)
            case Outputs(roles):
                for examples, targets in (found for role in roles for found in _of_role(role, audit, pairings)):
                    outputs.setdefault(examples, []).extend(targets)
    if any(isinstance(one, Values) for one in asked):
        for examples, targets in _of_role("target", audit, pairings):
            outputs.setdefault(examples, []).extend(one for one in targets if one not in gradients.get(examples, ()))
    return Requirements(
        sets={
            name: SetRequirements(
                activations=name in activations,
                gradients=tuple(dict.fromkeys(gradients.get(name, ()))),
                outputs=tuple(dict.fromkeys(outputs.get(name, ()))),
                rules=next(iter(tables)),
            )
            for name in audit.examples
            if name in activations or gradients.get(name) or outputs.get(name)
        },
        products=any(isinstance(one, InnerProducts) for one in asked),
        arrays=any(isinstance(one, Activations) for one in asked)
        or (
            any(isinstance(one, Gradients) for one in asked)
            and not any(isinstance(one, InnerProducts) for one in asked)
        ),
        finite_steps=any(isinstance(one, FiniteSteps) for one in asked),
    )


def _of_role(role: Role, audit: Audit, pairings: Mapping[str, Pairing]) -> list[tuple[str, list[str]]]:
    """The example sets that play a role, each with the targets that are read there."""
    every = list(audit.targets)
    match role:
        case "concept":
            return [(concept.examples, every) for concept in audit.concepts.values()]
        case "reference":
            return [(name, every) for concept in audit.concepts.values() for name in concept.reference_sets]
        case "target":
            return [(target.examples, [name]) for name, target in audit.targets.items()]
        case "pairs":
            return [(name, every) for pairing in pairings.values() for name in (pairing.concept, pairing.base)]
        case "groups":
            return [(group.examples, [group.target]) for group in audit.groups.values() if group.target is not None]
