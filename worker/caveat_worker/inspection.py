"""A look at a model or at an example set before anybody audits it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal

from caveat_spec.artifacts import DefaultTarget, ExampleSummary, Inspection, ModelLayer, Tensor
from caveat_spec.audit import Audit, Examples, Scalar
from caveat_spec.power import AuditPlan, plan_audit
from caveat_spec.report import Report
from caveat_worker.engine.autodiff.detections import scores_beside_boxes
from caveat_worker.engine.autodiff.external_gradients import read_external_gradients, verify
from caveat_worker.engine.autodiff.gradient_check import TOLERANCE, GradientCheck
from caveat_worker.engine.autodiff.layers import NO_ROW_FOR_EACH_EXAMPLE, Layer, choose_layers, list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.target import (
    Resolved,
    Target,
    outputs_with_scores,
    resolve_target,
    scores_beside_labels,
)
from caveat_worker.engine.autodiff.tokens import scores_next_token
from caveat_worker.engine.base.errors import InvalidInput, error_context
from caveat_worker.engine.onnx.graph import TensorInfo
from caveat_worker.engine.onnx.values import shape_of_value
from caveat_worker.engine.plan import TARGET_FIELDS, target_of
from caveat_worker.engine.report import gradient_checks
from caveat_worker.engine.without_layers import no_layer
from caveat_worker.loading import Blob
from caveat_worker.readers.batching import batches
from caveat_worker.readers.example_sets import open_set, open_set_of


def inspect_model(
    path: Path,
    output: str | None = None,
    index: int | None = None,
    gradient: Path | None = None,
    targets: Mapping[str, Scalar] | None = None,
    constants: Mapping[str, float] | None = None,
) -> Inspection:
    """What is in a model: inputs, outputs, and the layers that can be audited for one class, the first by default.

    A `gradient` graph that is supplied for these `targets` is compared with finite differences, and refused if wrong.
    Inputs that `constants` name hold a number.
    """
    model = load(path, constants=constants or {})
    resolved, sentence = _any_target(model, output, index)
    target = None if resolved is None else resolved.target
    checks = _verified(model, gradient, targets or {})
    layers: Sequence[Layer] = ()
    auto: Sequence[str] = ()
    notes: list[str] = []
    try:
        layers, auto, notes = _layers(model, target, {check.layer for check in checks})
    except InvalidInput as refused:
        if refused.code != NO_ROW_FOR_EACH_EXAMPLE or output is not None:
            raise
        resolved, sentence = None, f"{refused.sentence} {refused.remedy}"
    return Inspection(
        inputs=[_tensor(one) for one in model.inputs],
        outputs=[_tensor(one) for one in model.outputs],
        layers=[
            ModelLayer(
                tensor=layer.tensor,
                operator=layer.op,
                shape=list(layer.shape),
                depth=layer.depth,
                auditable=layer.auditable,
                reason=layer.reason,
                auto=layer.tensor in auto,
            )
            for layer in layers
        ],
        target=sentence,
        default_target=None if resolved is None else _default_target(model, resolved),
        gradient_checks=gradient_checks(checks, TOLERANCE),
        warnings=[*model.warnings, *notes],
    )


def inspect_examples(examples: Examples, blob: Blob) -> ExampleSummary:
    """What is in an example set; every example is decoded once, so that a corrupt one is named now."""
    source = open_set("examples", examples, blob, seed=0)
    if source.fit is not None:
        with error_context("/examples/examples"):
            source = source.fit(None)
    for _ in batches(source, 64):
        pass
    shape = next(iter(source.shapes.values()))
    return ExampleSummary(kind=source.kind, count=len(source), shape=list(shape), names=list(source.names[:10]))


def plan_examples(audit: Audit, blob: Blob, report: Report | None) -> AuditPlan:
    """What an audit's examples can settle: they are counted, the model is not read."""
    counts = {name: len(open_set_of(audit, name, blob)) for name in audit.examples}
    return plan_audit(audit, counts, report)


def _tensor(one: TensorInfo) -> Tensor:
    return Tensor(name=one.name, dtype="string" if one.dtype == "object" else one.dtype, shape=list(one.shape))


def _layers(
    model: Model, target: Target | None, external: Collection[str]
) -> tuple[Sequence[Layer], Sequence[str], list[str]]:
    """The layers that lead to a target, those that `layers: auto` picks, and what to do where it picks none.

    An input is among the layers only where it is picked.
    """
    if target is None:
        return (), (), []
    layers, auto = list_layers(model, target, external=external), choose_layers(model, target)
    if not auto and not external:
        rest = "Audits of it rest on interventions on matched pairs, and on comparisons of groups."
        if any(node.op_type == "If" for node in model.ir.graph):
            rest = (
                "An audit knows the sizes of its examples, which may settle the model's branches and open its layers."
            )
        repeats = any(layer.auditable for layer in layers)
        return layers, auto, [f"{no_layer(model, [target], repeats=repeats)} {rest}"]
    inputs = set(auto) - {layer.tensor for layer in layers}
    return (*(list_layers(model, target, inputs) if inputs else ()), *layers), auto, []


def _verified(model: Model, gradient: Path | None, targets: Mapping[str, Scalar]) -> tuple[GradientCheck, ...]:
    """The checks that a gradient graph from elsewhere passed."""
    if gradient is None:
        return ()
    with error_context("/gradient/blob"):
        external = read_external_gradients(gradient, model)
    asked = []
    for name, scalar in targets.items():
        with error_context(f"/gradient/targets/{name}", *TARGET_FIELDS):
            asked.append(target_of(name, scalar, model))
            resolve_target(model, asked[-1])
    with error_context("/gradient/blob"):
        return verify(external, model, asked)


def _default_target(model: Model, resolved: Resolved) -> DefaultTarget:
    """The target by the name of its output, so that an audit can ask for it."""
    target = resolved.target
    outputs = [target.output] if target.output is not None else [one.name for one in model.outputs]
    (output, *_) = [name for name in outputs if _reads(model, replace(target, output=name)) == resolved.tensor]
    scalar = Scalar(output=output, index=target.index, reduce=target.reduce, class_axis=target.class_axis)
    classes = resolved.classes if target.class_axis is None else None  # beside boxes, not every number is a class
    return DefaultTarget(scalar=scalar, classes=classes, link=resolved.link)


def _reads(model: Model, target: Target) -> str | None:
    """The tensor that a target reads, or None where its output has no scores."""
    try:
        return resolve_target(model, target).tensor
    except InvalidInput:
        return None


def _any_target(model: Model, output: str | None, index: int | None) -> tuple[Resolved | None, str]:
    """A target that stands for an output, and the sentence that says what it reads; what was named must be there."""
    found = () if output is not None else outputs_with_scores(model) or scores_beside_labels(model)
    others = [value.name or "" for value in found]
    refusals = []
    named: Sequence[str | None] = others or [output]
    for name, target in [(one, target) for one in named for target in _ways(model, one, index)]:
        try:
            resolved = resolve_target(model, target)
            return resolved, f"{resolved.sentence}{_and_others(name, others)}"
        except InvalidInput as refused:
            refusals.append(refused)
    if output is not None or index is not None:
        with error_context("", "output", "index"):
            raise refusals[-1]
    return None, f"{refusals[-1].sentence} {refusals[-1].remedy}"


def _ways(model: Model, output: str | None, index: int | None) -> Iterator[Target]:
    """The targets that an output may have, the first that it can have being meant."""
    target = Target(name="target", output=output)
    value = next((one for one in model.ir.graph.outputs if one.name == output), None)
    shape = None if value is None else shape_of_value(value)
    beside = None if shape is None or index is not None else scores_beside_boxes(shape, model.class_names)
    if beside is not None:
        yield replace(target, class_axis=beside[0], index=beside[1], reduce="max")
    next_word = shape is not None and len(shape) == 3 and scores_next_token(model, shape[2])
    reductions: tuple[Literal["mean", "last"] | None, ...] = (None, "last" if next_word else "mean")
    for at, reduce in product((None, 0) if index is None else (index,), reductions):
        yield replace(target, index=at, reduce=reduce)


def _and_others(chosen: str | None, names: Sequence[str]) -> str:
    """A sentence about the other outputs with scores, whose layers are not those of the chosen one."""
    others = ", ".join(f"'{name}'" for name in names if name != chosen)
    if not others:
        return ""
    return f" The layers are those before '{chosen}'; other outputs with scores, each with its own layers: {others}."
