"""Icons: what an atom looks for, by the examples of a set at which it is highest, lowest, and in between.

Examples at maximum alone tell what an atom responds to most; those at 75 %, the median and 25 % tell whether it means
the same all the way (Olah et al. 2017). They are examples that the model was given, so that nothing is made up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caveat_spec.explained import Figure, Icon, Icons, Spectrum
from caveat_worker.engine.activations.requirements import Plan
from caveat_worker.engine.autodiff.by_example import shape_by_example
from caveat_worker.engine.autodiff.differentiate import find_layer
from caveat_worker.engine.base.arrays import AnyArray, Float64Array, Indices
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.base.store import ArrayStore, key_of
from caveat_worker.engine.explanations.atoms import by_position, channel_axis, strongest, summed_over_channels
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.explanations.receptive_field import Axes, Sees, receptive_field
from caveat_worker.engine.explanations.runs import INPUT
from caveat_worker.engine.onnx.session import Provider
from caveat_worker.engine.panels.choice import Source, at_layer
from caveat_worker.engine.panels.kept import part_key
from caveat_worker.engine.panels.planned import PlannedElement

SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Where icons are in the order of a set's examples, from its highest to its lowest."""
AROUND = 3
"""Tokens on either side of the place that an icon of a text shows."""
COLUMNS = 6
"""Columns of a row that its icon shows."""

Box = tuple[int, int, int, int]
"""First row, first column, last row and last column of a picture, from 0."""
Crop = Callable[[str, int, Box | None, tuple[int, int]], str | None]
"""(example set, position, part of the model's input, its rows and columns) → a small picture, as a data URI."""
Words = Callable[[str, int], Sequence[str]]
"""(example set, position) → a row's columns with their values; nothing for other examples."""
Measure = Callable[[AnyArray, Indices | None], tuple[Float64Array, Indices]]
"""Activations [n, …], and how many positions of each are no padding → for each atom, how strongly it responds to each
example [n, k], and at which place [n, k]."""


@dataclass(frozen=True)
class Pictured:
    """How the examples of a set are shown small."""

    source: Source
    crop: Crop
    words: Words


@dataclass(frozen=True)
class Responses:
    """How strongly atoms respond to the examples of a set, and where in the layer."""

    values: Float64Array
    """[n, k]"""
    places: Indices
    """The number of the position [n, k], row by row."""


def of_concept(v: Float64Array, origin: Float64Array) -> Measure:
    """Each example's concept score, and the position that has most of it.

    A direction that is the same at every position is that of a mean, which is over the tokens of each text.
    """
    of_mean = v.ndim == 2 and bool((v == v[:1]).all())

    def measured(a: AnyArray, tokens: Indices | None) -> tuple[Float64Array, Indices]:
        products = summed_over_channels((a - origin) * v).reshape(len(a), -1)
        if of_mean and tokens is not None:
            products *= (np.arange(len(v)) < tokens[:, None]) * (len(v) / tokens[:, None])
        places = products.argmax(1) if channel_axis(a.shape) is not None else np.zeros(len(a), np.intp)
        return products.sum(1)[:, None], places[:, None]

    return measured


def of_groups(mixes: Float64Array) -> Measure:
    """Each example's largest part along a group's direction [k, channels] over positions, and where it is."""
    sizes = np.maximum(np.linalg.norm(mixes, axis=1), np.finfo(float).tiny)

    def measured(a: AnyArray, tokens: Indices | None) -> tuple[Float64Array, Indices]:
        along = by_position(a).astype(float) @ (mixes / sizes[:, None]).T
        return strongest(along, tokens)

    return measured


def responses(opened: OpenModel, source: Source, examples: str, layer: str, measure: Measure) -> Responses:
    """A measure of a layer at every example of a set; raises InvalidInput where one is no number."""
    names, found = source.names[examples], []
    for rows, a in at_layer(opened, source, examples, layer):
        tokens = [tokens_of(opened, source, examples, row, layer) for row in rows]
        there = [one for one in tokens if one is not None]
        found.append(measure(a, np.array(there) if len(there) == len(tokens) else None))
    values = np.concatenate([values for values, _ in found])
    without = np.flatnonzero(~np.isfinite(values).all(1))
    if len(without):
        raise InvalidInput(
            "no-finite-number",
            f"'{layer}' is NaN or infinite at '{names[without[0]]}' of example set '{examples}', so that its examples "
            "have no order.",
            "Look for NaN, infinite or very large values in these examples, and take them out.",
        )
    return Responses(values, np.concatenate([places for _, places in found]))


def responses_key(plan: Plan, one: PlannedElement, provider: Provider, versions: Mapping[str, str], answer: str) -> str:
    """The key of responses; `answer` is the key of an element's answer where the measure is from it."""
    assert one.icons is not None, "only of elements with icons"
    return key_of(
        icons=[one.layer, plan.audit.examples[one.icons].model_dump(mode="json"), plan.audit.method.seed],
        model=[plan.audit.model, plan.audit.constants],
        answer=answer,
        by={"provider": provider, **versions},
    )


def tokens_of(opened: OpenModel, source: Source, examples: str, row: int, layer: str) -> int | None:
    """How many positions of an example are tokens; None where a layer has no position for each token and padding."""
    if not opened.entry.embeds:
        return None
    ends = [shape_by_example(opened.model, name) or () for name in (layer, opened.entry.names[0])]
    if len({shape[1] for shape in ends if len(shape) == 3}) != 1 or any(len(shape) != 3 for shape in ends):
        return None
    return len(next(iter(source.parts(examples, row).values()), ()))


def recalled_responses(store: ArrayStore, key: str) -> Responses | None:
    """The responses that an earlier audit found, where they are kept."""
    values, places = store.get(part_key(key, "values")), store.get(part_key(key, "places"))
    return None if values is None or places is None else Responses(np.asarray(values), np.asarray(places))


def keep_responses(store: ArrayStore, key: str, found: Responses) -> None:
    """Keeps responses, where there is a cache."""
    store.put(part_key(key, "values"), found.values)
    store.put(part_key(key, "places"), found.places)


@dataclass(frozen=True)
class Sight:
    """What one place of a layer sees of the input."""

    axes: Axes
    """In the model's own order of axes."""
    order: tuple[int, ...]
    """For each axis that explanations see of the layer, the model's own."""
    places: tuple[int, ...]
    """The sizes of the layer's axes of positions, as explanations see them."""
    rows: int | None
    """The input's own axis of rows, and the next one's of columns, if it is a picture."""
    columns: int | None
    size: tuple[int, int]
    """Rows and columns of the input."""

    @classmethod
    def of(cls, opened: OpenModel, layer: str, shape: Sequence[int], seen: Sequence[int]) -> Sight:
        """For a layer of a shape [n, …], and an input [n, …], as explanations see them."""
        order = opened.layout(layer).order or tuple(range(len(shape)))
        axis = channel_axis(shape)
        places = tuple(size for one, size in enumerate(shape) if axis is not None and one not in (0, axis))
        picture = len(seen) == 4 and len(opened.entry.tensors) == 1 and not opened.entry.embeds
        if not picture:
            return cls((), order, places, None, None, (0, 0))
        own = opened.layout(INPUT).order or tuple(range(4))
        fields = receptive_field(opened.model, find_layer(opened.model, layer), opened.entry.names[0])
        return cls(fields, order, places, own[2], own[3], (seen[2], seen[3]))

    def box(self, place: int) -> Box | None:
        """What a place sees of a picture; None where that is all of it, or there is no picture."""
        spans = [self._span(place, axis, size) for axis, size in zip((self.rows, self.columns), self.size, strict=True)]
        (top, bottom), (left, right) = spans
        whole = (top, left, bottom, right) == (0, 0, self.size[0] - 1, self.size[1] - 1)
        return None if whole or self.rows is None else (top, left, bottom, right)

    @property
    def sees(self) -> tuple[int, int] | None:
        """Rows and columns that one place sees; None where it sees everything, or there is no picture."""
        found = [None if axis is None else self._along(axis) for axis in (self.rows, self.columns)]
        widths = [size if one is None else min(one[0].width, size) for one, size in zip(found, self.size, strict=True)]
        return None if self.rows is None or tuple(widths) == self.size else (widths[0], widths[1])

    def _along(self, axis: int) -> tuple[Sees, int] | None:
        """What the layer sees of an axis of the input, and by which of its own axes; None where that is everything."""
        return next(((one, own) for own, one in enumerate(self.axes) if one is not None and one.axis == axis), None)

    def _span(self, place: int, axis: int | None, size: int) -> tuple[int, int]:
        found = None if axis is None else self._along(axis)
        if found is None:
            return 0, size - 1
        sees, own = found
        at = np.unravel_index(place, self.places)
        positions = [one for one in range(len(self.order)) if one not in (0, channel_axis(self.order))]
        return sees.of(int(at[positions.index(self.order.index(own))]), size)


def with_icons(
    figure: Figure,
    examples: str,
    found: Responses,
    columns: Mapping[str, int],
    sight: Sight,
    pictured: Pictured,
    *,
    measure: str,
    unit: str,
    adopted: int,
) -> Figure:
    """A figure with the icons of its atoms, and the sentence that names the highest examples.

    `columns` has the column of the responses for each atom that is shown; `adopted` is how many examples a concept
    needs.
    """
    icons = icons_of(examples, found, columns, sight, pictured, measure=measure, unit=unit, adopted=adopted)
    first = next(iter(icons.spectra), None)
    named = "" if first is None else f" In {examples}, {_highest(first, found, columns, measure)}"
    return figure.model_copy(update={"icons": icons, "sentence": f"{figure.sentence}{named}"})


def icons_of(
    examples: str,
    found: Responses,
    columns: Mapping[str, int],
    sight: Sight,
    pictured: Pictured,
    *,
    measure: str,
    unit: str,
    adopted: int,
) -> Icons:
    """The icons of the atoms of one layer, by the column of the responses that each has."""
    spectra = [
        spectrum_of(atom, examples, found.values[:, column], found.places[:, column], sight, pictured, adopted)
        for atom, column in columns.items()
    ]
    count = len(pictured.source.names[examples])
    return Icons(set=examples, examples=count, measure=measure, unit=unit, sees=sight.sees, spectra=spectra)


def _highest(first: Spectrum, found: Responses, columns: Mapping[str, int], measure: str) -> str:
    """Which examples an atom responds to most; or that it tells none of them apart."""
    if np.ptp(found.values[:, columns[first.atom]]) == 0:
        return f"{first.atom} is the same for every example."
    names = first.highest[:3]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"the {measure} of {first.atom} is highest for {listed}."


def spectrum_of(
    atom: str, examples: str, values: Float64Array, places: Indices, sight: Sight, pictured: Pictured, adopted: int
) -> Spectrum:
    """One atom's examples from the highest to the lowest, and the names of the highest `adopted`."""
    order, names = np.argsort(-values, kind="stable"), pictured.source.names[examples]
    rows = {share: int(order[round((1 - share) * (len(order) - 1))]) for share in SHARES}
    above = [int(row) for row in order[:adopted] if values[row] > np.median(values)] or [int(order[0])]
    return Spectrum(
        atom=atom,
        icons=[
            icon_of(share, examples, row, float(values[row]), int(places[row]), sight, pictured)
            for share, row in rows.items()
        ],
        highest=[names[row] for row in above],
    )


def icon_of(share: float, examples: str, row: int, value: float, place: int, sight: Sight, pictured: Pictured) -> Icon:
    """An example of a set, as what a place of a layer sees of it."""
    box = sight.box(place)
    words, mark = _words(examples, row, place, sight, pictured)
    return Icon(
        share=share,
        example=pictured.source.names[examples][row],
        position=row,
        value=value,
        picture=pictured.crop(examples, row, box, sight.size) if sight.rows is not None else None,
        box=box,
        words=words,
        mark=mark,
    )


def _words(examples: str, row: int, place: int, sight: Sight, pictured: Pictured) -> tuple[list[str], int | None]:
    """The tokens around a place of a text, and which of them is at it; or the columns of a row."""
    listed = [*pictured.words(examples, row)]
    if listed:
        return listed[:COLUMNS], None
    tokens = next(iter(pictured.source.parts(examples, row).values()), ())
    if len(sight.places) != 1 or place >= len(tokens):
        return [*tokens[: 2 * AROUND + 1]], None
    start = max(place - AROUND, 0)
    return [*tokens[start : place + AROUND + 1]], place - start
