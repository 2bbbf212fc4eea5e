"""Which examples are explained: by name, or by a rule over the target's number for every example of the set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_spec.explanations import FOLDER
from caveat_worker.engine.activations.pooling import Mask
from caveat_worker.engine.autodiff.differentiate import differentiate, expose, find_layer
from caveat_worker.engine.autodiff.target import resolve_target
from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.panels.planned import PlannedExplanation

Feeds = Callable[[str, Sequence[int]], Mapping[str, NDArray[Any]]]
"""(example set, positions) → the model's inputs [n, …] by name."""


@dataclass(frozen=True)
class Source:
    """The examples of the sets that an explanation is about."""

    names: Mapping[str, Sequence[str]]
    keys: Mapping[str, Sequence[str]]
    """What examples pair by."""
    feeds: Feeds
    columns: Callable[[str, Sequence[str]], Mapping[str, NDArray[Any]]]
    """(example set, names of columns) → their values [n], where the set is a table."""
    parts: Callable[[str, int], Mapping[str, Sequence[str]]]
    """(example set, position) → the names of an example's columns or tokens, by the model's inputs, if it has some."""


@dataclass(frozen=True)
class Choice:
    """The positions of the examples that are explained, and the rule in a sentence."""

    positions: tuple[int, ...]
    sentence: str


def choose(planned: PlannedExplanation, opened: OpenModel, source: Source) -> Choice:
    """The examples that an explanation asks for, in the order of its rule; ties in the order of the set."""
    names = source.names[planned.examples]
    pick, most = planned.asked.examples.pick, planned.asked.examples.most
    if isinstance(pick, list):
        return Choice(tuple(names.index(name) for name in pick), f"{_examples(len(pick))} chosen by name.")
    match pick:
        case "highest" | "lowest":
            order = target_numbers(planned, opened, source, planned.examples) * (1 if pick == "lowest" else -1)
            rule = f"of which {planned.asked.of} is {pick}"
        case "most_changed":
            order = -np.abs(_change(planned, opened, source))
            rule = f"whose {planned.asked.of} differs most from that of their matches in {planned.matches}"
        case "errors" if planned.asked.examples.label is None:
            order = _margin(planned, opened, source)
            rule = f"that get another class than {planned.asked.of} by the widest margin"
        case "errors":
            order = _contradicted(planned, opened, source)
            rule = (
                f"whose {planned.asked.examples.label} contradicts the model's answer about {planned.asked.of} by the "
                "widest margin"
            )
    ranked = np.argsort(order, kind="stable")
    kept = [int(position) for position in ranked if pick != "errors" or order[position] < 0][:most]
    if not kept:
        every = f"Every one of the {len(names)} examples of {planned.examples}"
        right = f"gets the answer about {planned.asked.of} that its {planned.asked.examples.label} has"
        return Choice((), f"{every} {right if planned.asked.examples.label else f'gets {planned.asked.of}'}.")
    return Choice(tuple(kept), f"Of {len(names)} examples of {planned.examples}, the {_examples(len(kept))} {rule}.")


def match_of(planned: PlannedExplanation, source: Source, position: int) -> int:
    """The position of an example's match in the set that its own pairs with."""
    assert planned.matches is not None, "the audit's own validation: matches are asked of sets that have some"
    return source.keys[planned.matches].index(source.keys[planned.examples][position])


def target_numbers(planned: PlannedExplanation, opened: OpenModel, source: Source, examples: str) -> Float64Array:
    """The target's number [n] for every example of a set."""
    session = opened.session("value", graph=lambda: differentiate(opened.model, [], [planned.target]))
    return _over(planned, opened, source, examples, session, f"value/{planned.target.name}")


def _change(planned: PlannedExplanation, opened: OpenModel, source: Source) -> Float64Array:
    """How each example's number [n] differs from its match's."""
    assert planned.matches is not None, "the audit's own validation: matches are asked of sets that have some"
    without = target_numbers(planned, opened, source, planned.matches)
    matches = [match_of(planned, source, position) for position in range(len(source.names[planned.examples]))]
    return target_numbers(planned, opened, source, planned.examples) - without[matches]


def _margin(planned: PlannedExplanation, opened: OpenModel, source: Source) -> Float64Array:
    """The score [n] of the target's class less the best of the others: below 0 where another class wins.

    Of a model with one score it is that score, which says yes to class 1 above 0.
    """
    tensor = resolve_target(opened.model, planned.target).tensor
    session = opened.session("every class", graph=lambda: expose(opened.model, [tensor]))
    scores = _over(planned, opened, source, planned.examples, session, tensor)
    scores = scores.reshape(len(scores), -1)
    if scores.shape[1] == 1:
        return np.asarray(scores[:, 0] * (-1 if planned.target.index == 0 else 1))
    others = np.delete(scores, planned.target.index or 0, axis=1)
    margin: Float64Array = scores[:, planned.target.index or 0] - others.max(1)
    return margin


def _contradicted(planned: PlannedExplanation, opened: OpenModel, source: Source) -> Float64Array:
    """Less than 0 where a label contradicts the model's answer [n], the least where the model is most certain."""
    column = planned.asked.examples.label
    assert column is not None, "only where there are labels"
    values, margin = source.columns(planned.examples, [column])[column], _margin(planned, opened, source)
    number = 1 if planned.target.index is None else planned.target.index
    is_class = np.array([_is_class(value, number, planned.target.class_name) for value in values])
    if not is_class.any():
        shown = ", ".join(repr(one) for one in sorted(set(map(str, values.tolist())))[:5])
        raise InvalidInput(
            "label-of-no-class",
            f"No example of '{planned.examples}' has class {planned.target.class_name or number} in column '{column}', "
            f"whose values are {shown}.",
            "Name a column that holds the true class, by its number or by its name.",
            f"/explain/{planned.name}/examples/label",
        )
    return np.where((margin > 0) == is_class, 1.0, -1 - np.abs(margin))


def _is_class(value: Any, number: int, name: str | None) -> bool:
    """Whether a label is a class, by its number or by its name."""
    try:
        return float(value) == number
    except ValueError:
        return name is not None and str(value) == name


def in_batches(
    opened: OpenModel, source: Source, examples: str, rows: Sequence[int] | None = None
) -> Iterator[tuple[Sequence[int], Mapping[str, NDArray[Any]]]]:
    """Positions of a set, all by default, and what the model is fed at them: as many at a time as it takes."""
    wanted, size = range(len(source.names[examples])) if rows is None else rows, opened.batch(gradient=False)
    for start in range(0, len(wanted), size):
        some = wanted[start : start + size]
        yield some, source.feeds(examples, some)


def at_layer(
    opened: OpenModel, source: Source, examples: str, layer: str, rows: Sequence[int] | None = None
) -> Iterator[tuple[Sequence[int], AnyArray]]:
    """Positions of a set and a layer's activations there [n, …], as explanations see them."""
    for some, a, _ in at_tokens(opened, source, examples, layer, rows):
        yield some, a


def at_tokens(
    opened: OpenModel, source: Source, examples: str, layer: str, rows: Sequence[int] | None = None
) -> Iterator[tuple[Sequence[int], AnyArray, Mask | None]]:
    """The same, and which positions of the layer are tokens [n, positions]; None where no mask tells."""
    name = find_layer(opened.model, layer)
    session = opened.session("layer", name, graph=lambda: expose(opened.model, [name]))
    for some, fed in in_batches(opened, source, examples, rows):
        yield some, opened.layout(layer).seen(np.asarray(session.run(fed)[name])), opened.marks(layer, fed)


def label_values(source: Source, examples: str, labels: str) -> list[Any]:
    """The label of each example: the value of a column, or the folder of a picture."""
    if labels == FOLDER:
        return [name.rpartition("/")[0].rpartition("/")[2] for name in source.names[examples]]
    return list(source.columns(examples, [labels])[labels])


def _over(
    planned: PlannedExplanation, opened: OpenModel, source: Source, examples: str, session: Any, output: str
) -> Float64Array:
    """An output of a session for every example of a set, batch by batch; raises InvalidInput where one is no number."""
    parts = [session.run(fed)[output] for _, fed in in_batches(opened, source, examples)]
    found = np.concatenate(parts).astype(float)
    check_finite(planned, examples, source.names[examples], found)
    return found


def check_finite(planned: PlannedExplanation, examples: str, names: Sequence[str], found: Float64Array) -> None:
    """Raises InvalidInput where an example gets NaN or infinity, which can be neither ranked nor explained."""
    without = [name for name, row in zip(names, found, strict=True) if not np.isfinite(row).all()]
    if without:
        others = f" and {len(without) - 1} others" * (len(without) > 1)
        raise InvalidInput(
            "no-finite-number",
            f"The model gives '{without[0]}'{others} of example set '{examples}' NaN or infinity for "
            f"'{planned.asked.of}', so that there is no number to explain.",
            "Look for NaN, infinite or very large values in these examples; take them out, or pick others by name.",
            f"/explain/{planned.name}/examples",
        )


def _examples(count: int) -> str:
    return f"{count} example{'s' * (count != 1)}"
