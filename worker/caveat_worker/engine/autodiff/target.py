"""Finds the scalar for each example that an audit differentiates: by default a logit, before any softmax."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.builder import Tensor, op
from caveat_worker.engine.autodiff.detections import doubt, scores_beside_boxes
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.output_kinds import kind_of_output
from caveat_worker.engine.autodiff.tokens import LAST, mask_of, mask_of_last, write_reduced
from caveat_worker.engine.autodiff.written_out import written_softmax
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.learned_shapes import DOMAIN
from caveat_worker.engine.onnx.values import shape_of_value

Scale = Literal["logit", "log_probability", "probability"]
Link = Literal["none", "softmax", "sigmoid", "two_sigmoids", "shares_of_sigmoids", "probabilities", "values"]
"""From the scores to the output; `probabilities`, and `values` of a regression, are the output itself."""

_NONE: Link = "none"
_TRANSPARENT = {
    "ArgMax", "Cast", "CastLike", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape",
    "Squeeze", "Unsqueeze",
}  # fmt: skip
_WITHOUT_PROBABILITY = {
    "shares_of_sigmoids": "divides sigmoids by their sum, so a class has no probability of its own",
    "values": "holds numbers of a regression, or places of boxes, which have no probability",
}
_LINKS: dict[str, Link] = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}


@dataclass(frozen=True)
class Target:
    """A scalar for each example: a class of an output, or the difference of two classes, on a scale.

    `output` names a graph output or any tensor; None means the only output with scores. `index` is the class and
    `versus` the class to subtract. `reduce` turns several values of an example (tokens, pixels) into one; `class_axis`
    is the axis of the classes: by default the last axis, or 1 for images [n, c, h, w].
    """

    name: str
    output: str | None = None
    index: int | None = None
    versus: int | None = None
    scale: Scale = "logit"
    reduce: Literal["mean", "sum", "max", "last"] | None = None
    class_axis: int | None = None
    class_name: str | None = None
    """What people call the class, where it was asked for by name."""

    def axis(self, rank: int) -> int:
        """The axis of the classes in an output of this rank."""
        if self.class_axis is not None:
            return self.class_axis % rank
        return 1 if rank == 4 else rank - 1


@dataclass(frozen=True)
class Resolved:
    """The tensor of a target's scores, the link from them to the output, and a sentence for people about both."""

    target: Target
    tensor: str
    link: Link
    classes: int | None
    sentence: str
    mask: str | None = None
    """The input that tells tokens from padding, where the target is reduced over them."""


def resolve_target(model: Model, target: Target) -> Resolved:
    """Finds the logits behind a target's output; raises `InvalidInput` with the outputs or classes that exist."""
    output = _output(model, target)
    value, link = output, _NONE
    if output.is_graph_output():
        value, link = _logits(output)
        if _loses_batch(value, output):
            value, link = output, _NONE
        link = kind_of_output(value) if link == "none" else link
    shape = shape_of_value(value)
    if shape is None and _is_float(value):
        raise InvalidInput(
            "shape-not-known",
            f"Output '{output.name}' has scores, but the number of their axes follows from no shape in the model.",
            "Export the model with fixed sizes, or name another tensor as the target's output.",
            "output",
        )
    if not _is_float(value) or shape is None:
        raise _no_scores(model, output)
    if link == "none" and output.is_graph_output() and scores_beside_boxes(shape, model.class_names) is not None:
        link = "values"  # the places of boxes are among them: the largest of them is no decision
    rank = len(shape)
    if target.class_axis is not None and target.class_axis >= max(rank, 2):
        raise InvalidInput(
            "unknown-axis",
            f"Output '{output.name}' has {rank} axes, and none is number {target.class_axis}.",
            f"Give a 'class_axis' from 1 to {rank - 1}.",
            "class_axis",
        )
    axis = target.axis(rank)
    size = 2 if link == "two_sigmoids" else (shape[axis] if rank > 1 else 1)
    classes = size if isinstance(size, int) else None
    others = [d for i, d in enumerate(shape) if i not in (0, axis) and d != 1]
    if others and target.reduce is None:
        raise InvalidInput(
            "target-not-a-scalar",
            f"Target '{target.name}' has {'another axis' if len(others) == 1 else f'{len(others)} axes'} beside those "
            f"of the batch and of the classes: '{value.name}' {list(shape)}.",
            "Say how they become one number per example: reduce: mean, sum, max, or last (the last token of a text).",
            "reduce",
        )
    mask = None
    if target.reduce == LAST:
        _check_tokens(target, value, rank)
        mask = mask_of_last(model, shape[3 - axis])
    elif target.reduce is not None and rank == 3:
        mask = mask_of(model, shape[3 - axis])
    if link in _WITHOUT_PROBABILITY and target.scale != "logit":
        raise InvalidInput(
            "scale-not-available",
            f"Output '{output.name}' {_WITHOUT_PROBABILITY[link]}.",
            "Leave 'scale' out.",
            "scale",
        )
    _check_index(target, target.index, classes, output, "index")
    if target.versus is not None:
        _check_index(target, target.versus, classes, output, "versus")
    return Resolved(target, value.name or "", link, classes, _sentence(target, output, value, link, mask), mask)


def write_target(resolved: Resolved, scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Writes the target's value for each example [n] from its scores, and from the mask where it needs one."""
    target = resolved.target
    chosen = _on_scale(resolved, scores, target.index)
    if target.versus is not None:
        chosen = chosen - _on_scale(resolved, scores, target.versus)
    rank = scores.rank - 1 if scores.rank > 1 and resolved.link != "two_sigmoids" else 1
    if rank > 1:
        chosen = write_reduced(chosen, target.reduce or "mean", mask, rank)
    return chosen


def _on_scale(resolved: Resolved, scores: Tensor, index: int | None) -> Tensor:
    """h_k: the logit, or log p_k or p_k by the model's own link function."""
    scale, link = resolved.target.scale, resolved.link
    if link == "two_sigmoids":
        z = _column(scores, 0, 1) * (1.0 if index == 1 else -1.0)
        return _through_sigmoid(z, scale)
    if scores.rank == 1:
        return _through_sigmoid(scores, scale)
    axis = resolved.target.axis(scores.rank)
    if link in ("probabilities", "values"):
        column = _column(scores, index or 0, axis)
        return op.Log(column) if scale == "log_probability" else column
    if scale != "logit" and link != "sigmoid" and resolved.classes != 1:
        scores = op.LogSoftmax(scores, axis=axis) if scale == "log_probability" else op.Softmax(scores, axis=axis)
        return _column(scores, index or 0, axis)
    return _through_sigmoid(_column(scores, index or 0, axis), scale)


def _through_sigmoid(z: Tensor, scale: Scale) -> Tensor:
    if scale == "log_probability":
        return -op.Softplus(-z)
    return z if scale == "logit" else op.Sigmoid(z)


def _column(scores: Tensor, index: int, axis: int) -> Tensor:
    if scores.rank == 1:
        return scores
    column = op.Gather(scores, np.int64(index), axis=axis)
    if scores.shape is not None:
        column.value.shape = ir.Shape([size for position, size in enumerate(scores.shape) if position != axis])
    return column


def _output(model: Model, target: Target) -> ir.Value:
    if target.output is not None:
        value = next((v for v in model.ir.graph.outputs if v.name == target.output), None)
        value = value or model.value(target.output)
        if value is None or value.is_initializer():
            raise InvalidInput(
                "unknown-output",
                f"The model has no output '{target.output}'.",
                f"Its outputs are {_outputs(model)}; any other tensor may be named too.",
                "output",
            )
        return value
    scores = outputs_with_scores(model)
    if len(scores) == 1:
        return scores[0]
    if not scores:
        raise _no_scores(model, *model.ir.graph.outputs)
    raise InvalidInput(
        "ambiguous-output",
        f"Target '{target.name}' names no output, and the model has {len(scores)} outputs with scores.",
        f"Name one of {_listed(scores)}.",
        "output",
    )


def outputs_with_scores(model: Model) -> tuple[ir.Value, ...]:
    """The outputs that scores lead to; one for outputs of the same scores, such as a class and its probability.

    Those that are likelier to be the answer come first: a detector's scores before its boxes.
    """
    scores: dict[str, ir.Value] = {}
    for output in model.ir.graph.outputs:
        logits, _ = _logits(output)
        if _is_float(logits):
            scores.setdefault(logits.name or "", output)
    return tuple(sorted(scores.values(), key=_doubt))


def _doubt(output: ir.Value) -> int:
    squashed = _logits(output)[1] not in (_NONE, "values")
    return doubt(output.name or "", shape_of_value(output), squashed)


def scores_beside_labels(model: Model) -> tuple[ir.Value, ...]:
    """The scores of classifiers of ai.onnx.ml whose label alone is an output: tensors inside the model."""
    found = (_classifier_of(output) for output in model.ir.graph.outputs)
    return tuple(node.outputs[1] for node in found if node is not None and node.outputs[1].name)


def _classifier_of(output: ir.Value) -> ir.Node | None:
    """The classifier that an output has its label from, through operators that rename or reshape it."""
    value: ir.Value | None = output
    while value is not None and (node := value.producer()) is not None:
        if node.domain == DOMAIN and node.op_type.endswith("Classifier"):
            return node if value is node.outputs[0] and len(node.outputs) > 1 else None
        if node.op_type not in _TRANSPARENT | {"LabelEncoder"}:
            return None
        value = node.inputs[0] if node.inputs else None
    return None


def _no_scores(model: Model, *outputs: ir.Value) -> InvalidInput:
    """The error for outputs that hold classes or texts: what else the model has, or what an export has to hold."""
    what = f"Output {_listed(outputs)} holds" if len(outputs) == 1 else f"The outputs {_listed(outputs)} hold"
    others = [one for one in model.ir.graph.outputs if _is_float(_logits(one)[0])]
    floats = [v for node in model.ir.graph for v in node.outputs if _is_float(v) and v.name]
    if others:
        remedy = f"Name an output of scores: {_listed(others)}."
    elif floats:
        remedy = f"Name a tensor of scores as the target's output, such as {_listed(floats[-3:])}."
    else:
        remedy = (
            "An audit measures how far a number moves. Export the model with its probabilities or scores as an output, "
            "such as scikit-learn's SVC(probability=True), or compare its decisions between groups."
        )
    return InvalidInput(
        "no-logits", f"{what} classes or texts, and there are no scores before {_them(outputs)}.", remedy, "output"
    )


def _them(outputs: Sequence[ir.Value]) -> str:
    return "it" if len(outputs) == 1 else "them"


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _logits(output: ir.Value) -> tuple[ir.Value, Link]:
    """The last scores before operators that only rename, reshape, round or squash them, and the link to the output."""
    value, link, shared, rounded = output, _NONE, False, False
    scores = (output, link)
    while (node := value.producer()) is not None and node.inputs and node.inputs[0] is not None:
        below = _two_sigmoids(node)
        if below is not None:
            return below, "two_sigmoids"
        written = written_softmax(node) if link == "none" else None
        if written is not None and not shared:
            value, link = written, "softmax"
            scores = (value, link)
            continue
        squashes = node.op_type in _LINKS and link == "none"
        shares = _makes_shares(node)
        if not (squashes or shares or node.op_type in _TRANSPARENT):
            break
        shared = shared or shares
        rounded = rounded or node.op_type in {"DequantizeLinear", "QuantizeLinear"}
        if squashes:
            link = "shares_of_sigmoids" if shared and node.op_type == "Sigmoid" else _LINKS[node.op_type]
        value = node.inputs[0]
        if squashes:
            value = _before_rows(value)
        if not _is_float(value):
            scores = scores if _is_float(output) else (output, _NONE)  # a class that was a number with a fraction
            continue
        if squashes or node.op_type == "ArgMax" or (link == "none" and not (shared or rounded) and _same_layout(node)):
            scores = (value, link)
    return scores


def _before_rows(scores: ir.Value) -> ir.Value:
    """What was flattened into rows of classes for a softmax of an old opset: [n, t, c] in place of [n t, c]."""
    node = scores.producer()
    if node is None or node.op_type != "Flatten" or node.inputs[0] is None:
        return scores
    whole, axis = node.inputs[0], node.attributes.get_int("axis", 1)
    shape = shape_of_value(whole)
    return whole if shape is not None and len(shape) == 3 and axis in (2, -1) else scores


def _makes_shares(node: ir.Node) -> bool:
    """Whether the node divides scores by their sum, as the last node of scikit-learn's classifiers does."""
    if node.op_type != "Div" or node.inputs[1] is None or (total := node.inputs[1].producer()) is None:
        return False
    summed = total.inputs[0]
    if summed is not None and (maker := summed.producer()) is not None and maker.op_type == "Abs":
        summed = maker.inputs[0]
    return total.op_type in {"ReduceL1", "ReduceSum"} and summed is node.inputs[0]


def _loses_batch(scores: ir.Value, output: ir.Value) -> bool:
    """Whether the output has the batch as its first axis, and the scores before it have another, of fixed length."""
    before, after = shape_of_value(scores), shape_of_value(output)
    return bool(before and after) and isinstance(before[0], int) and not isinstance(after[0], int)  # type: ignore[index]


def _same_layout(node: ir.Node) -> bool:
    """Whether the node leaves the axes of batch and classes where they are."""
    before, after = node.inputs[0], node.outputs[0]
    if node.op_type in {"Cast", "CastLike", "Dropout", "Identity"}:
        return before is not None and (before.shape is not None or after.shape is None)
    if before is None or before.shape is None or after.shape is None:
        return False
    return shape_of_value(before) == shape_of_value(after)


def _two_sigmoids(node: ir.Node) -> ir.Value | None:
    """z, if the node joins 1 - σ(z) and σ(z) into the probabilities of two classes, else None."""
    if node.op_type != "Concat" or len(node.inputs) != 2:
        return None
    below, above = node.inputs
    complement, sigmoid = (v.producer() if v is not None else None for v in (below, above))
    if complement is None or sigmoid is None or sigmoid.op_type != "Sigmoid" or complement.op_type != "Sub":
        return None
    return sigmoid.inputs[0] if complement.inputs[1] is above else None


def _check_index(target: Target, index: int | None, classes: int | None, output: ir.Value, field: str) -> None:
    if index is None:
        if classes == 1:
            return
        raise InvalidInput(
            "class-not-named",
            f"Target '{target.name}' names no class, and output '{output.name}' has {classes or 'several'} of them.",
            f"Give an index from 0 to {classes - 1}." if classes else "Give an index.",
            "index",
        )
    if index and classes == 1:
        raise InvalidInput(
            "unknown-class",
            f"Target '{target.name}' asks for class {index}, but output '{output.name}' is a single number.",
            f"Leave '{field}' out.",
            field,
        )
    if index < 0 or (classes is not None and index >= classes):
        raise InvalidInput(
            "unknown-class",
            f"Target '{target.name}' asks for class {index}, but output '{output.name}' has {classes} classes.",
            f"Give an index from 0 to {(classes or 1) - 1}.",
            field,
        )


def _check_tokens(target: Target, scores: ir.Value, rank: int) -> None:
    """Raises `InvalidInput` for the last token of scores that have no axis of tokens, or several such axes."""
    if rank != 3:
        raise InvalidInput(
            "no-tokens",
            f"Target '{target.name}' is read at the last token, and its scores '{scores.name}' have {rank} axes, "
            "not one of tokens beside those of the batch and of the classes.",
            "Leave 'reduce' out." if rank < 3 else "Use 'mean', 'sum' or 'max'.",
            "reduce",
        )


def _sentence(target: Target, output: ir.Value, value: ir.Value, link: Link, mask: str | None) -> str:
    what = "the value" if target.index is None else f"class {target.index}"
    if target.class_name is not None:
        what += f" ('{target.class_name}')"
    if target.versus is not None:
        what += f" less class {target.versus}"
    behind = {
        "none": "which no softmax or sigmoid follows",
        "softmax": f"the scores before the softmax of output '{output.name}'",
        "sigmoid": f"the score before the sigmoid of output '{output.name}'",
        "shares_of_sigmoids": f"the score before the sigmoid, which output '{output.name}' divides by their sum",
        "two_sigmoids": f"the single score from which output '{output.name}' computes two probabilities",
        "probabilities": "which is a probability as the model gives it",
        "values": "which is a number as the model gives it",
    }[link]
    scale = {
        "logit": "",
        "log_probability": ", as a log-probability",
        "probability": "" if link == "probabilities" else ", as a probability",
    }
    where = ""
    if target.reduce == LAST:
        where = " at the last place" if mask is None else f" at the last token by '{mask}'"
    elif mask is not None:
        how = {"mean": "averaged", "sum": "summed", "max": "at its largest"}[target.reduce or "mean"]
        where = f", {how} over the tokens of '{mask}'"
    return f"Target '{target.name}' is {what} of tensor '{value.name}'{where}, {behind}{scale[target.scale]}."


def _outputs(model: Model) -> str:
    return _listed(model.ir.graph.outputs)


def _listed(values: Iterable[ir.Value]) -> str:
    return ", ".join(f"'{value.name}'" for value in values)
