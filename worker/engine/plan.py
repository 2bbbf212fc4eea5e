"""From an audit and a model to everything that will be computed, decided before anything is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api_spec.audit import Audit, LayerChoice, Scalar
from worker.engine import layers as model_layers
from worker.engine.differentiate import Resolved, Target, find_layer, resolve_target
from worker.engine.errors import Refused, about
from worker.engine.graph import TensorInfo
from worker.engine.model import Model
from worker.engine.reduction import features
from worker.engine.supplied import Supplied

ONLY = ""
"""The name of a model's only input, whatever the model calls it."""


@dataclass(frozen=True)
class Layer:
    """A tensor whose activations become features."""

    name: str
    """As rows name it: the tensor, and `@` its reduction where that is not `flatten`."""
    tensor: str
    reduce: str
    operator: str
    shape: tuple[int | str | None, ...]
    depth: int
    chosen: bool
    """Whether it was picked here, not asked for."""


@dataclass(frozen=True)
class Need:
    """What has to be known about one example set."""

    activations: bool = False
    gradients: tuple[str, ...] = ()
    """Targets whose gradients are taken at these examples."""
    outputs: tuple[str, ...] = ()
    """Targets whose whole output tensor is read."""


@dataclass(frozen=True)
class Pairing:
    """A concept whose examples have twins without it: positions in the concept's set and in `against`."""

    concept: str
    base: str
    with_concept: tuple[int, ...]
    without: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """One audit, settled."""

    audit: Audit
    model: Model
    inputs: tuple[TensorInfo, ...]
    layers: tuple[Layer, ...]
    targets: Mapping[str, Target]
    resolved: Mapping[str, Resolved]
    needs: Mapping[str, Need]
    places: Mapping[str, slice]
    """Example set → its rows among all examples whose activations are kept."""
    pairings: Mapping[str, Pairing]
    supplied: Supplied | None = None
    """The graph that gradients come from, where it is not made here."""
    warnings: tuple[str, ...] = field(default=())

    @property
    def examples(self) -> int:
        """How many examples have a place."""
        return max((place.stop for place in self.places.values()), default=0)

    def feeds(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Examples as the model takes them: by its inputs' names, in their types."""
        return {
            tensor.name: np.asarray(values[tensor.name if tensor.name in values else ONLY]).astype(
                tensor.dtype, copy=False
            )
            for tensor in self.inputs
        }


@dataclass(frozen=True)
class ExampleOutline:
    """What planning needs to know of an example set."""

    shapes: Mapping[str, tuple[int, ...]]
    """Of one example, by the model's inputs, or under `ONLY`."""
    keys: tuple[str, ...]
    """What its examples pair by."""
    optional: bool = False
    """Whether the model may lack some of the inputs."""


def make_plan(
    audit: Audit, model: Model, outlines: Mapping[str, ExampleOutline], supplied: Supplied | None = None
) -> Plan:
    """Settles layers, targets, pairs and what is read from which examples; raises `Refused` where it cannot be done."""
    for name, outline in outlines.items():
        _check_fit(name, outline, model.inputs)
    targets = {name: target_of(name, asked) for name, asked in audit.targets.items()}
    resolved = {}
    for name, target in targets.items():
        with about(f"/targets/{name}", "output", "index", "versus", "reduce"):
            resolved[name] = resolve_target(model, target)
    layers = _layers(audit, model, list(targets.values()), supplied) if audit.concepts else ()
    _check_counts(audit, outlines)
    pairings = _pairings(audit, outlines)
    needs = _needs(audit, pairings)
    return Plan(
        audit=audit,
        model=model,
        inputs=model.inputs,
        layers=layers,
        targets=targets,
        resolved=resolved,
        needs=needs,
        places=_places(needs, outlines),
        pairings=pairings,
        supplied=supplied,
        warnings=(*model.warnings, *([] if supplied is None else [_FROM_ELSEWHERE])),
    )


_FROM_ELSEWHERE = "Gradients come from the graph that was supplied with the model; they agree with finite differences."


def target_of(name: str, asked: Scalar) -> Target:
    """A target under its name, as the engine takes it."""
    return Target(name, asked.output, asked.index, asked.versus, asked.scale, asked.reduce)


def _check_fit(name: str, outline: ExampleOutline, inputs: Sequence[TensorInfo]) -> None:
    """The examples' shapes against the model's inputs, dimension by dimension; names of dimensions fit any size."""
    pointer = f"/examples/{name}"
    taken = ", ".join(f"'{tensor.name}'" for tensor in inputs)
    if ONLY in outline.shapes and len(inputs) != 1:
        raise Refused(
            "several-inputs",
            f"Example set '{name}' feeds one input, and the model has {len(inputs)}: {taken}.",
            "Use arrays in an .npz with 'inputs', or text with a tokenizer; or export the others as constants.",
            pointer,
        )
    strange = [given for given in outline.shapes if given != ONLY and given not in {one.name for one in inputs}]
    if strange and not outline.optional:
        raise Refused(
            "unknown-input",
            f"Example set '{name}' feeds '{strange[0]}', which the model does not have.",
            f"Its inputs are {taken}.",
            pointer,
        )
    for tensor in inputs:
        given = outline.shapes.get(tensor.name, outline.shapes.get(ONLY))
        if given is None:
            raise Refused(
                "missing-input",
                f"Example set '{name}' feeds nothing to the model's input '{tensor.name}'.",
                "Name what feeds it in 'inputs'.",
                pointer,
            )
        wanted = tensor.shape[1:]
        fits = len(wanted) == len(given) and all(
            not isinstance(want, int) or want == have for want, have in zip(wanted, given, strict=True)
        )
        if not fits:
            raise Refused(
                "shapes-do-not-fit",
                f"Example set '{name}' has examples of shape {_shape(given)}; the model's input '{tensor.name}' "
                f"takes {_shape(wanted)}.",
                "Change 'preprocess' (size, layout, channels), 'features' or 'length' so that they agree.",
                pointer,
            )


def _shape(dimensions: Sequence[int | str | None]) -> str:
    return " x ".join(str(dimension) if dimension is not None else "?" for dimension in dimensions) or "a single number"


def _check_counts(audit: Audit, outlines: Mapping[str, ExampleOutline]) -> None:
    """Every set in a concept or a target has the examples that the test needs."""
    roles: list[tuple[str, str, list[str]]] = []
    for name, concept in audit.concepts.items():
        roles.append((f"/concepts/{name}/examples", f"Concept '{name}'", [concept.examples]))
        roles.append((f"/concepts/{name}/against", f"The pool of concept '{name}'", concept.pools))
    for name, target in audit.targets.items():
        roles.append((f"/targets/{name}/examples", f"Target '{name}'", [target.examples]))
    needed = audit.method.min_examples
    for pointer, role, sets in roles if audit.concepts else []:
        count = sum(len(outlines[name].keys) for name in sets)
        if count < needed:
            raise Refused(
                "too-few-examples",
                f"{role} has {count} example{'s' * (count != 1)}; {needed} are needed (`method.min_examples`).",
                f"Add at least {needed - count} to '{sets[-1]}'.",
                pointer,
            )


def _layers(audit: Audit, model: Model, targets: list[Target], supplied: Supplied | None) -> tuple[Layer, ...]:
    """The asked-for layers, or a handful that are worth auditing; each must reach every target."""
    chosen = audit.layers == "auto"
    with about("/gradient"):
        given = () if supplied is None else supplied.common([target.name for target in targets])
    asked = (
        [LayerChoice(tensor=tensor) for tensor in given or model_layers.choose_layers(model, targets[0])]
        if isinstance(audit.layers, str)
        else audit.layers
    )
    tensors = []
    for position, choice in enumerate(asked):
        with about(f"/layers/{position}"):
            tensors.append(find_layer(model, choice.tensor))
            if supplied is not None and tensors[-1] not in given:
                raise Refused(
                    "gradient-not-supplied",
                    f"The gradient graph has nothing for layer '{tensors[-1]}'; it has {', '.join(given)}.",
                    "Audit one of those, or supply the gradient at this layer too.",
                )
    known = [
        {layer.tensor: layer for layer in model_layers.list_layers(model, target, tensors, supplied=given)}
        for target in targets
    ]
    planned = []
    for position, (choice, tensor) in enumerate(zip(asked, tensors, strict=True)):
        pointer = f"/layers/{position}"
        for target, layers in zip(targets, known, strict=True):
            _check_auditable(model, layers.get(tensor), tensor, target, pointer)
        found = known[0][tensor]
        with about(pointer):
            features(found.shape, choice.reduce)
        planned.append(
            Layer(
                name=choice.tensor if choice.reduce == "flatten" else f"{choice.tensor}@{choice.reduce}",
                tensor=tensor,
                reduce=choice.reduce,
                operator=found.op,
                shape=found.shape,
                depth=found.depth,
                chosen=chosen,
            )
        )
    return tuple(planned)


def _check_auditable(model: Model, layer: model_layers.Layer | None, tensor: str, target: Target, pointer: str) -> None:
    if layer is not None and layer.auditable:
        return
    reason = layer.reason if layer is not None else f"'{tensor}' does not lead to the target"
    can = [one.tensor for one in model_layers.list_layers(model, target) if one.auditable]
    raise Refused(
        "layer-cannot-be-audited",
        f"Layer '{tensor}' cannot be audited for target '{target.name}': {reason}.",
        f"These can: {', '.join(can[:20]) or 'none'}{' …' if len(can) > 20 else ''}.",
        pointer,
    )


def _pairings(audit: Audit, outlines: Mapping[str, ExampleOutline]) -> dict[str, Pairing]:
    """Twins by key, for every concept whose example set declares `pairs_with`."""
    pairings = {}
    for concept, asked in audit.concepts.items():
        base = audit.examples[asked.examples].pairs_with
        if base is None:
            continue
        keys, base_keys = outlines[asked.examples].keys, outlines[base].keys
        place = {key: position for position, key in enumerate(base_keys)}
        missing = [key for key in keys if key not in place]
        if missing or len(place) < len(base_keys):
            problem = (
                f"'{missing[0]}' and {len(missing) - 1} others of '{asked.examples}' have no twin in '{base}'"
                if missing
                else f"'{base}' holds two examples with one name"
            )
            raise Refused(
                "unpaired-examples",
                f"Example set '{asked.examples}' pairs with '{base}', but {problem}.",
                "Give twins the same file name (the ending may differ), or tables the same rows in the same order.",
                f"/examples/{asked.examples}/pairs_with",
            )
        pairings[concept] = Pairing(
            concept=asked.examples,
            base=base,
            with_concept=tuple(range(len(keys))),
            without=tuple(place[key] for key in keys),
        )
    return pairings


def _needs(audit: Audit, pairings: Mapping[str, Pairing]) -> dict[str, Need]:
    """What is read from each example set, so that each example goes through the model once."""
    activations = {name for concept in audit.concepts.values() for name in (concept.examples, *concept.pools)}
    gradients: dict[str, list[str]] = {}
    outputs: dict[str, list[str]] = {}
    if audit.concepts:
        for name, target in audit.targets.items():
            activations.add(target.examples)
            gradients.setdefault(target.examples, []).append(name)
            for pairing in pairings.values():
                for examples in (pairing.concept, pairing.base):
                    outputs.setdefault(examples, []).append(name)
    for group in audit.groups.values():
        if group.target is not None:
            outputs.setdefault(group.examples, []).append(group.target)
    return {
        name: Need(
            activations=name in activations,
            gradients=tuple(gradients.get(name, ())),
            outputs=tuple(dict.fromkeys(outputs.get(name, ()))),
        )
        for name in audit.examples
        if name in activations | gradients.keys() | outputs.keys()
    }


def _places(needs: Mapping[str, Need], outlines: Mapping[str, ExampleOutline]) -> dict[str, slice]:
    places, start = {}, 0
    for name, need in needs.items():
        if need.activations:
            places[name] = slice(start, start + len(outlines[name].keys))
            start = places[name].stop
    return places
