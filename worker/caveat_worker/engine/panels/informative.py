"""Most informative patches: the set that they are from, by its labels, and how they are shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_spec.explained import Figure, Icon, Icons, Spectrum
from caveat_spec.explanations import PATCH_ROWS
from caveat_worker.engine.autodiff.differentiate import cut_at, expose, find_layer
from caveat_worker.engine.autodiff.target import resolve_target
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations.atoms import by_position
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.explanations.runs import SomeExamples, Streamed
from caveat_worker.engine.panels.choice import Source, in_batches, label_values
from caveat_worker.engine.panels.icons import Pictured, Sight, icon_of, tokens_of

_SHOWN = 5
"""Labels that a refusal names."""


@dataclass(frozen=True)
class StreamedSets:
    """The example sets of an audit at a layer of a model, some examples at a time."""

    source: Source

    def __call__(self, opened: OpenModel, examples: str, layer: str, labels: str | None) -> Streamed:
        """The set; raises InvalidInput for labels of which none is the target's class, and for what is no number."""
        kinds, _ = kinds_of(opened, self.source, examples, labels)
        return Streamed(self.source.names[examples], kinds, self._batches(opened, examples, layer))

    def _batches(self, opened: OpenModel, examples: str, layer: str) -> Iterator[SomeExamples]:
        name, names = find_layer(opened.model, layer), self.source.names[examples]
        below = opened.session("layer", name, graph=lambda: expose(opened.model, [name]))
        above = opened.session("held", name, graph=lambda: cut_at(opened.model, name, [opened.target], alone=True))
        for rows, fed in in_batches(opened, self.source, examples):
            own = np.asarray(below.run(fed)[name])
            numbers = np.asarray(above.run({**fed, name: own})[f"value/{opened.target.name}"], float)
            activations = by_position(opened.layout(layer).seen(own))
            fine = np.isfinite(activations).all((1, 2)) & np.isfinite(numbers)
            if not fine.all():
                raise InvalidInput(
                    "no-finite-number",
                    f"'{layer}' or the target is NaN or infinite at '{names[rows[int(fine.argmin())]]}' of example set "
                    f"'{examples}', so that its patches have no order.",
                    "Look for NaN, infinite or very large values in these examples, and take them out.",
                )
            tokens = [tokens_of(opened, self.source, examples, row, layer) for row in rows]
            there = [one for one in tokens if one is not None]
            yield SomeExamples(activations, numbers, np.array(there) if len(there) == len(tokens) else None)


def kinds_of(
    opened: OpenModel, source: Source, examples: str, labels: str | None
) -> tuple[list[NDArray[np.bool_]], list[str | None]]:
    """Which examples are of the target's class, and of others where some are; and each label, None where there is none.

    Without labels all examples are of one kind. Raises InvalidInput where no label is the target's class.
    """
    if labels is None:
        count = len(source.names[examples])
        return [np.ones(count, bool)], [None] * count
    values = [_text(value) for value in label_values(source, examples, labels)]
    target, classes = opened.target, resolve_target(opened.model, opened.target).classes
    number = 1 if target.index is None else target.index
    lists = [names for names in opened.model.class_names if len(names) == max(classes or 0, 2)]
    named = {name: place for names in reversed(lists) for place, name in enumerate(names)}
    own = np.array([one is not None and (one == target.class_name or _number(one, named) == number) for one in values])
    known = np.array([one is not None for one in values])
    if not own.any():
        there = ", ".join(map(repr, sorted({one for one in values if one is not None})[:_SHOWN])) or "empty"
        raise InvalidInput(
            "label-of-no-class",
            f"No example of '{examples}' has class {target.class_name or number} by '{labels}', whose values are "
            f"{there}.",
            "Give true classes by their numbers, as the model counts them, or by the names in the model's file.",
        )
    others = known & ~own
    return [own, others] if others.any() else [own], values


def _text(value: Any) -> str | None:
    """A label as people write it: a whole number without a point, and None for what is missing."""
    if value is None or value != value or str(value) == "":
        return None
    whole = not isinstance(value, str) and float(value).is_integer()
    return str(int(value)) if whole else str(value)


def _number(label: str, named: Mapping[str, int]) -> int | None:
    """The number of a label's class: by its name in the model's file, else as it is written."""
    if label in named:
        return named[label]
    try:
        number = float(label)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def with_informative_patches(
    figure: Figure, patches: Float64Array, opened: OpenModel, sight: Sight, pictured: Pictured
) -> Figure:
    """A figure with the patches of its rows [kinds, count, 4], and the sentences that name them."""
    examples, labels = str(figure.element.asked_set), figure.element.options["labels"]
    kinds, values = kinds_of(opened, pictured.source, examples, None if labels is None else str(labels))
    shown = [atom.place[0] for atom in figure.atoms]
    rows = [_icons(patches[number], kinds[number], values, examples, sight, pictured) for number in shown]
    whole = f"{len(pictured.source.names[examples]):,} examples of {examples}"
    of = [f"{whole}, all of the class" if len(kinds) < PATCH_ROWS and labels is not None else whole]
    if len(kinds) == PATCH_ROWS:
        of = [
            f"{kinds[0].sum():,} examples of {examples} that are of the class",
            f"{kinds[1].sum():,} of other classes",
        ]
    target = opened.target.name
    spectra = [
        Spectrum(atom=atom.id, icons=icons, highest=[one.example for one in icons])
        for atom, icons in zip(figure.atoms, rows, strict=True)
    ]
    notes = [f"{'; '.join(_told(one) for one in icons)}." for icons in rows]
    return figure.model_copy(
        update={
            "icons": Icons(
                set=examples,
                examples=len(pictured.source.names[examples]),
                measure="highest evidence",
                unit=opened.target.scale,
                sees=sight.sees,
                spectra=spectra,
            ),
            "atoms": [atom.model_copy(update={"note": note}) for atom, note in zip(figure.atoms, notes, strict=True)],
            "sentence": " ".join(
                _sentence(icons, of[number], target, own=number == 0) for number, icons in zip(shown, rows, strict=True)
            ),
        }
    )


def _icons(
    patches: Float64Array,
    kind: NDArray[np.bool_],
    labels: Sequence[str | None],
    examples: str,
    sight: Sight,
    pictured: Pictured,
) -> list[Icon]:
    """The patches of a row [count, 4], each with its place, and its example's label and number."""
    found = []
    for rank, (row, place, evidence, whole) in enumerate(patches[patches[:, 0] >= 0].tolist()):
        share = 1 - rank / max(int(kind.sum()) - 1, 1)
        at = np.unravel_index(int(place), sight.places) if len(sight.places) > 1 else (place,)
        icon = icon_of(share, examples, int(row), evidence, int(place), sight, pictured)
        told = {"place": [int(axis) for axis in at], "label": labels[int(row)], "whole": whole}
        found.append(icon.model_copy(update=told))
    return found


def _sentence(icons: Sequence[Icon], of: str, target: str, *, own: bool) -> str:
    """Which examples have the patches that say most, and what it means where their label is another."""
    first, *others = icons
    following = " and ".join(f"{one.example} ({_signed(one.value)})" for one in others[:2])
    then = f", followed by {following}" if following else ""
    if own:
        return (
            f"Of {of}, the place that says most for {target} by itself is in {first.example} ({_signed(first.value)})"
            f"{then}."
        )
    speaks = f" Such places speak for {target} against the labels: they mislead the model, or a label is wrong."
    return (
        f"Of {of} it is in {first.example}, labelled {first.label} ({_signed(first.value)}){then}."
        f"{speaks if first.value > 0 else ''}"
    )


def _told(one: Icon) -> str:
    """A patch in words: its example, label, place and evidence, and what the model gives the whole example."""
    label = "" if one.label is None else f", labelled {one.label},"
    return f"{one.example}{label} at {_place(one)} ({_signed(one.value)}, the whole {_signed(one.whole or 0.0)})"


def _place(one: Icon) -> str:
    """Where a patch is: the word at it, or its row and column, counted from 1."""
    if one.mark is not None:
        return f"“{one.words[one.mark]}”"
    if len(one.place) == 2:
        return f"row {one.place[0] + 1}, column {one.place[1] + 1}"
    return f"position {', '.join(map(str, one.place))}"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−") if value else "0"
