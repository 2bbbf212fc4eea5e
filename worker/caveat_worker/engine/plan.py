"""From an audit and a model to everything that will be computed, decided before anything is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from caveat_spec.audit import Audit, LayerChoice, Scalar, Text
from caveat_spec.roles import example_roles
from caveat_worker.engine.activations.pooling import features
from caveat_worker.engine.activations.requirements import (
    ONLY,
    Layer,
    LookExamples,
    Pairing,
    Passes,
    Plan,
    Requirements,
    merged,
)
from caveat_worker.engine.autodiff import layers as model_layers
from caveat_worker.engine.autodiff.channels import channel_axis
from caveat_worker.engine.autodiff.class_names import Names, class_number
from caveat_worker.engine.autodiff.differentiate import find_layer
from caveat_worker.engine.autodiff.external_gradients import ExternalGradients
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.autodiff.tokens import LAST, mask_of_last, mask_of_layer
from caveat_worker.engine.base.errors import InvalidInput, error_context
from caveat_worker.engine.data_checks import required_to_check
from caveat_worker.engine.methods import Method
from caveat_worker.engine.onnx.graph import TensorInfo
from caveat_worker.engine.without_layers import sentences_without_layers


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
    audit: Audit,
    model: Model,
    outlines: Mapping[str, ExampleOutline],
    methods: Sequence[Method],
    external: ExternalGradients | None = None,
    labels: Names | None = None,
) -> Plan:
    """Settles layers, targets, pairs and the merged requirements of all methods.

    `labels` are names of the classes from beside the model; without them those that the model holds count.

    Raises InvalidInput where the audit cannot be run on this model and these examples.
    """
    for name, outline in outlines.items():
        _check_fit(name, outline, model.inputs)
    targets, resolved = {}, {}
    for name, asked in audit.targets.items():
        with error_context(f"/targets/{name}", *TARGET_FIELDS):
            targets[name] = target_of(name, asked, model, labels)
            resolved[name] = resolve_target(model, targets[name])
            if targets[name].reduce == LAST:
                _check_ends(audit, resolved[name].mask)
    layers = _layers(audit, model, list(targets.values()), external) if audit.concepts and audit.test_concepts else ()
    _check_counts(audit, outlines)
    pairings = _pairings(audit, outlines)
    left_out = [method.name for method in methods if not layers and method.reads_layers(audit)]
    answering = [method for method in methods if method.name not in left_out]
    notes = (
        sentences_without_layers(
            audit, model, targets.values(), pairings, left_out, [method.name for method in answering]
        )
        if left_out
        else ()
    )
    wanted = [one for method in answering for one in method.requires(audit)]
    requires = merged([*wanted, *required_to_check(audit, resolved)], audit, pairings)
    return Plan(
        audit=audit,
        model=model,
        inputs=model.inputs,
        layers=layers,
        targets=targets,
        resolved=resolved,
        requires=requires,
        row_ranges=_row_ranges(requires, outlines),
        pairings=pairings,
        passes=_passes(audit, requires, layers, outlines),
        external=external,
        left_out=tuple(left_out),
        warnings=(
            *model.warnings,
            *([] if external is None else [_FROM_ELSEWHERE]),
            *(sentence for layer in layers for sentence in _assumed_channels(layer)),
            *notes,
        ),
        lengths=_lengths(model.inputs, outlines.values()),
    )


def _mask(audit: Audit, model: Model, layer: Layer) -> str | None:
    """The input that tells a layer's tokens from padding, where it is reduced over them."""
    if layer.reduce in ("mean", "max"):
        return mask_of_layer(model, layer.tensor)
    if layer.reduce != LAST:
        return None
    mask = mask_of_last(model, layer.shape[3 - layer.channels])
    _check_ends(audit, mask)
    return mask


def _check_ends(audit: Audit, mask: str | None) -> None:
    """Raises InvalidInput where the last token is asked for and nothing says where texts end, which are padded."""
    texts = [name for name, examples in audit.examples.items() if isinstance(examples, Text)]
    if mask is None and texts:
        raise InvalidInput(
            "no-mask",
            f"'{LAST}' is a text's last token, and the model has no input that tells tokens from the padding behind "
            f"the texts of '{texts[0]}': no input of two axes is called a mask.",
            "Export the model with its attention mask as an input, or use 'mean'.",
            "reduce",
        )


def _lengths(inputs: Sequence[TensorInfo], outlines: Iterable[ExampleOutline]) -> dict[str, int]:
    """How long the axes are that have names in place of sizes, as a text's tokens have: at most, over all sets."""
    found: dict[str, int] = {}
    for outline in outlines:
        for tensor in inputs:
            given = outline.shapes.get(tensor.name, outline.shapes.get(ONLY, ()))
            for size, length in zip(tensor.shape[1:], given, strict=False):
                if isinstance(size, str):
                    found[size] = max(length, found.get(size, 0))
    return found


def plan_look(plan: Plan, audit: Audit, outlines: Mapping[str, ExampleOutline], before: Plan | None) -> Plan:
    """The plan of one look of a sequential audit: the same question by the look's settings, about fewer examples.

    `before` is that of the look before it, behind whose examples the new ones make batches of their own.
    """
    known = {} if before is None or before.look is None else before.look.counts
    counts = {name: tuple(dict.fromkeys([*known.get(name, ()), len(one.keys)])) for name, one in outlines.items()}
    return replace(
        plan,
        audit=audit,
        row_ranges=_row_ranges(plan.requires, outlines),
        pairings=_pairings(audit, outlines),
        passes=_passes(audit, plan.requires, plan.layers, outlines),
        look=LookExamples(counts, plan.audit.method.alpha),
    )


def enough_examples(audit: Audit, outlines: Mapping[str, ExampleOutline]) -> bool:
    """Whether every concept, reference set and target has the examples that the test needs."""
    return not any(_short_of_examples(audit, outlines))


_FROM_ELSEWHERE = "Gradients come from the graph that was supplied with the model; they agree with finite differences."


TARGET_FIELDS = ("output", "index", "class", "versus", "scale", "reduce", "class_axis")
"""Fields of a target that an error may point to."""


def target_of(name: str, asked: Scalar, model: Model, labels: Names | None = None) -> Target:
    """A target under its name, as the engine takes it: with numbers in place of classes' names."""
    target = Target(
        name, asked.output, asked.index, None, asked.scale, asked.reduce, asked.class_axis, _as_text(asked.class_name)
    )

    def number(of: str | int, field: str) -> int:
        classes = resolve_target(model, replace(target, index=0)).classes
        return class_number(of, classes, model.class_names if labels is None else [labels], field)

    index = asked.index if asked.class_name is None else number(asked.class_name, "class")
    versus = number(asked.versus, "versus") if isinstance(asked.versus, str) else asked.versus
    return replace(target, index=index, versus=versus)


def _as_text(name: str | int | None) -> str | None:
    return None if name is None else str(name)


def _check_fit(name: str, outline: ExampleOutline, inputs: Sequence[TensorInfo]) -> None:
    """The examples' shapes against the model's inputs, dimension by dimension; names of dimensions fit any size."""
    pointer = f"/examples/{name}"
    taken = ", ".join(f"'{tensor.name}'" for tensor in inputs)
    if ONLY in outline.shapes and len(inputs) != 1:
        raise InvalidInput(
            "several-inputs",
            f"Example set '{name}' feeds one input, and the model has {len(inputs)}: {taken}.",
            "Use arrays in an .npz with 'inputs', or text with a tokenizer; or hold the others constant: "
            f"{_constant(inputs[-1].name)}.",
            pointer,
        )
    strange = [given for given in outline.shapes if given != ONLY and given not in {one.name for one in inputs}]
    if strange and not outline.optional:
        raise InvalidInput(
            "unknown-input",
            f"Example set '{name}' feeds '{strange[0]}', which the model does not have.",
            f"Its inputs are {taken}.",
            pointer,
        )
    for tensor in inputs:
        given = outline.shapes.get(tensor.name, outline.shapes.get(ONLY))
        if given is None:
            raise InvalidInput(
                "missing-input",
                f"Example set '{name}' feeds nothing to the model's input '{tensor.name}'.",
                f"Name what feeds it in 'inputs', or hold it constant for all examples: {_constant(tensor.name)}.",
                pointer,
            )
        wanted = tensor.shape[1:]
        fits = len(wanted) == len(given) and all(
            not isinstance(want, int) or want == have for want, have in zip(wanted, given, strict=True)
        )
        if not fits:
            raise InvalidInput(
                "shapes-do-not-fit",
                f"Example set '{name}' has examples of shape {_shape(given)}; the model's input '{tensor.name}' "
                f"takes {_shape(wanted)}.",
                "Change 'preprocess' (size, layout, channels), 'features' or 'length' so that they agree.",
                pointer,
            )


def _constant(name: str) -> str:
    return f"`constants: {{{name}: ...}}`"


def _shape(dimensions: Sequence[int | str | None]) -> str:
    return " x ".join(str(dimension) if dimension is not None else "?" for dimension in dimensions) or "a single number"


def _check_counts(audit: Audit, outlines: Mapping[str, ExampleOutline]) -> None:
    """Every set in a concept or a target has the examples that the test needs."""
    needed = audit.method.min_examples
    for pointer, role, examples, count in _short_of_examples(audit, outlines):
        raise InvalidInput(
            "too-few-examples",
            f"{role} has {count} example{'s' * (count != 1)}; {needed} are needed (`method.min_examples`).",
            f"Add at least {needed - count} to '{examples}'.",
            pointer,
        )


def _short_of_examples(audit: Audit, outlines: Mapping[str, ExampleOutline]) -> Iterator[tuple[str, str, str, int]]:
    """Every concept, reference set or target with too few: where, what, the set to add to, and how many it has."""
    for role in example_roles(audit):
        count = sum(len(outlines[name].keys) for name in role.sets)
        if count < audit.method.min_examples:
            yield role.pointer, role.name, role.sets[-1], count


def _layers(audit: Audit, model: Model, targets: list[Target], external: ExternalGradients | None) -> tuple[Layer, ...]:
    """The asked-for layers, each of which must reach every target, or a handful that are worth auditing and do.

    None where a model has no such layer, as one of trees has none.
    """
    chosen = audit.layers == "auto"
    with error_context("/gradient"):
        given = () if external is None else external.common([target.name for target in targets])
    asked = (
        [LayerChoice(tensor=tensor) for tensor in given or model_layers.choose_layers(model, targets[0])]
        if isinstance(audit.layers, str)
        else audit.layers
    )
    tensors = []
    for position, choice in enumerate(asked):
        with error_context(f"/layers/{position}"):
            tensors.append(find_layer(model, choice.tensor))
            if external is not None and tensors[-1] not in given:
                raise InvalidInput(
                    "gradient-not-supplied",
                    f"The gradient graph has nothing for layer '{tensors[-1]}'; it has {', '.join(given)}.",
                    "Audit one of those, or supply the gradient at this layer too.",
                )
    known = [
        {layer.tensor: layer for layer in model_layers.list_layers(model, target, tensors, external=given)}
        for target in targets
    ]
    planned = []
    for position, (choice, tensor) in enumerate(zip(asked, tensors, strict=True)):
        pointer = f"/layers/{position}"
        if chosen and not all(tensor in layers and layers[tensor].auditable for layers in known):
            continue
        for target, layers in zip(targets, known, strict=True):
            _check_auditable(model, layers.get(tensor), tensor, target, pointer)
        found = known[0][tensor]
        layer = Layer(
            name=choice.tensor if choice.reduce == "flatten" else f"{choice.tensor}@{choice.reduce}",
            tensor=tensor,
            reduce=choice.reduce,
            operator=found.op,
            shape=found.shape,
            depth=found.depth,
            chosen=chosen,
            channel_axis=channel_axis(model, tensor),
        )
        with error_context(pointer):
            features(layer.shape, layer.reduce, layer.channels)
            mask = _mask(audit, model, layer)
        planned.append(replace(layer, mask=mask))
    return tuple(planned)


def _assumed_channels(layer: Layer) -> Iterator[str]:
    """A sentence about a layer that is reduced over positions although no operator says which of its axes they are."""
    if layer.reduce != "flatten" and layer.channel_axis is None:
        yield (
            f"No operator around layer '{layer.tensor}' says which of its axes holds the channels; '{layer.name}' "
            f"takes axis {layer.channels} of {_shape(layer.shape)} (counted from 0), and the others for positions. "
            "If that is wrong, leave the reduction out."
        )


def _check_auditable(model: Model, layer: model_layers.Layer | None, tensor: str, target: Target, pointer: str) -> None:
    if layer is not None and layer.auditable:
        return
    reason = layer.reason if layer is not None else _why_no_layer(model, tensor)
    worth = model_layers.choose_layers(model, target)
    can = [one.tensor for one in model_layers.list_layers(model, target) if one.auditable and worth]
    raise InvalidInput(
        "layer-cannot-be-audited",
        f"Layer '{tensor}' cannot be audited for target '{target.name}': {str(reason).rstrip('.')}.",
        f"These can: {', '.join(can[:20])}{' …' if len(can) > 20 else ''}."
        if can
        else "Leave out 'layers', and the audit rests on interventions on matched pairs.",
        pointer,
    )


def _why_no_layer(model: Model, tensor: str) -> str:
    if tensor in {one.name for one in model.inputs}:
        return f"'{tensor}' is an input of the model, and layers lie between its inputs and the target"
    return f"'{tensor}' does not lead to the target"


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
                f"'{missing[0]}' and {len(missing) - 1} others of '{asked.examples}' have no match in '{base}'"
                if missing
                else f"'{base}' holds two examples with one name"
            )
            raise InvalidInput(
                "unpaired-examples",
                f"Example set '{asked.examples}' pairs with '{base}', but {problem}.",
                "Give matched examples the same file name (the ending may differ), or tables the same rows in order.",
                f"/examples/{asked.examples}/pairs_with",
            )
        pairings[concept] = Pairing(
            concept=asked.examples,
            base=base,
            with_concept=tuple(range(len(keys))),
            without=tuple(place[key] for key in keys),
        )
    return pairings


def _row_ranges(requires: Requirements, outlines: Mapping[str, ExampleOutline]) -> dict[str, slice]:
    """The rows of each set among all examples whose activations are collected."""
    ranges, start = {}, 0
    for name, need in requires.sets.items():
        if need.activations:
            ranges[name] = slice(start, start + len(outlines[name].keys))
            start = ranges[name].stop
    return ranges


def _passes(
    audit: Audit, requires: Requirements, layers: Sequence[Layer], outlines: Mapping[str, ExampleOutline]
) -> Passes:
    """How many examples go through the model, before anything is known from an earlier audit."""
    count = {name: len(outlines[name].keys) for name in requires.sets}
    steps = len(audit.concepts) * len(layers)
    return Passes(
        forward=sum(count.values()),
        backward=sum(count[name] * len(need.gradients) for name, need in requires.sets.items()),
        partial=steps * sum(len(outlines[target.examples].keys) for target in audit.targets.values())
        if requires.finite_steps
        else 0,
    )
