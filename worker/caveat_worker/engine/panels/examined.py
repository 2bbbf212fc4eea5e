"""An example set at a layer, with its labels and with scores of the audit's concepts at another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caveat_spec.results import Accuracy
from caveat_worker.engine.activations.collected import generator
from caveat_worker.engine.activations.gram import inner_products
from caveat_worker.engine.activations.requirements import Plan
from caveat_worker.engine.autodiff.differentiate import cut_at, differentiate, expose, find_layer
from caveat_worker.engine.base.arrays import AnyArray, Float64Array, Indices
from caveat_worker.engine.base.errors import InvalidInput, error_context
from caveat_worker.engine.base.threads import on_one_thread
from caveat_worker.engine.concepts.cav import direction
from caveat_worker.engine.concepts.concept_test import cav_of
from caveat_worker.engine.concepts.fit_problem import ConceptData, Settings, fit_problem_of
from caveat_worker.engine.concepts.linear_probe import encoding
from caveat_worker.engine.explanations.atoms import by_position, channel_axis
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.explanations.runs import INPUT, Examined, Hold
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.panels.choice import Source, in_batches, label_values
from caveat_worker.engine.panels.concept_rows import Row, concept_rows
from caveat_worker.engine.panels.icons import tokens_of

_LARGEST = 100_000_000
"""Numbers of a layer at all examples, so that they fit in memory beside their factors."""


@dataclass(frozen=True)
class ExaminedSets:
    """The example sets in which an audit looks for what nobody named; each goes through a model once."""

    plan: Plan
    source: Source

    @on_one_thread
    def __call__(self, opened: OpenModel, examples: str, layer: str, labels: str | None, known_at: str) -> Examined:
        """The set at a layer; raises InvalidInput for what cannot be examined."""
        names, method = self.source.names[examples], self.plan.audit.method
        rows = [(examples, row) for row in range(len(names))]
        scored = {name: self._scores(opened, name, rows, known_at) for name in self.plan.audit.concepts}
        columns = self._columns(opened, examples) if layer == INPUT else ()
        return Examined(
            activations=_together(list(self._at(opened, rows, layer)), layer),
            numbers=self._numbers(opened, rows),
            digests=[_digest(self.source.feeds(examples, [row])) for row in range(len(names))],
            labels=None if labels is None else self._labels(examples, labels),
            named={name: scores for name, (scores, _) in scored.items()},
            unscored={name: told.held_out for name, (_, told) in scored.items() if not told.encoded},
            names=names,
            columns=columns,
            seed=method.seed,
            alpha=method.alpha,
            adopted=method.min_examples,
            held=self._held(opened, examples, layer),
        )

    def _held(self, opened: OpenModel, examples: str, layer: str) -> Hold | None:
        """What gives the target's number with directions of the layer held; None where its numbers are no floats."""
        entry = opened.entry
        if layer == INPUT and not all(tensor.dtype.startswith("float") for tensor in entry.tensors):
            return None
        if layer == INPUT and not entry.embeds:
            layout, seen = opened.layout(INPUT), opened.input_of
            session = opened.session("numbers", graph=lambda: _numbers(opened))

            def fed(values: AnyArray) -> Mapping[str, AnyArray]:
                return entry.split(layout.own(values))

        else:
            at = entry.names[0] if layer == INPUT else layer
            name, layout = find_layer(opened.model, at), opened.layout(at)
            head = opened.session("layer", name, graph=lambda: expose(opened.model, [name]))
            session = opened.session(
                "held", name, graph=lambda: cut_at(opened.model, name, [opened.target], alone=True)
            )

            def seen(feeds: Mapping[str, AnyArray]) -> AnyArray:
                return layout.seen(np.asarray(head.run(feeds)[name]))

            def fed(values: AnyArray) -> Mapping[str, AnyArray]:
                return {name: layout.own(values)}

        def numbers(rows: Indices, directions: Float64Array, values: Float64Array) -> Float64Array:
            key, found = f"value/{opened.target.name}", []
            for _, feeds in in_batches(opened, self.source, examples, rows.tolist()):
                a = seen(feeds)
                each = (_at_value(a, direction, value) for direction, value in zip(directions, values, strict=True))
                found.append([np.asarray(session.run({**feeds, **fed(one)})[key], float) for one in each])
            return np.concatenate(found, axis=1)

        return numbers

    def _columns(self, opened: OpenModel, examples: str) -> Sequence[str]:
        named = self.source.parts(examples, 0)
        parts = [name for several in named.values() for name in several]
        return parts if not opened.entry.embeds else ()

    def _batches(self, opened: OpenModel, rows: Sequence[Row]) -> Iterator[Mapping[str, AnyArray]]:
        """Feeds of examples, each batch of one set."""
        for examples in dict.fromkeys(examples for examples, _ in rows):
            wanted = [row for of, row in rows if of == examples]
            yield from (fed for _, fed in in_batches(opened, self.source, examples, wanted))

    def _at(self, opened: OpenModel, rows: Sequence[Row], layer: str) -> Iterator[AnyArray]:
        """A layer at each example [positions, channels], without the positions of padding."""
        done, name = 0, layer if layer == INPUT else find_layer(opened.model, layer)
        for fed in self._batches(opened, rows):
            if layer == INPUT:
                found = opened.input_of(fed)
            else:
                session = opened.session("layer", name, graph=lambda: expose(opened.model, [name]))
                found = opened.layout(layer).seen(np.asarray(session.run(fed)[name]))
            if found.dtype == object:
                raise InvalidInput(
                    "texts-are-no-numbers",
                    "The input holds texts, which have no directions and no scores of concepts.",
                    "Name a layer inside the model in 'layer' and in 'known_at'.",
                )
            for one in by_position(found):
                examples, row = rows[done]
                tokens = tokens_of(opened, self.source, examples, row, layer) if layer != INPUT else None
                yield np.asarray(one[: max(tokens, 1)] if tokens is not None else one, np.float32)
                done += 1

    def _numbers(self, opened: OpenModel, rows: Sequence[Row]) -> Float64Array:
        session = opened.session("numbers", graph=lambda: _numbers(opened))
        name = f"value/{opened.target.name}"
        numbers = np.concatenate([np.asarray(session.run(fed)[name], float) for fed in self._batches(opened, rows)])
        if not np.isfinite(numbers).all():
            wrong = self.source.names[rows[0][0]][int(np.isfinite(numbers).argmin())]
            raise InvalidInput(
                "no-finite-number",
                f"The target is NaN or infinite at '{wrong}'.",
                "Look for NaN, infinite or very large values in these examples, and take them out.",
            )
        return numbers

    def _scores(
        self, opened: OpenModel, concept: str, rows: Sequence[Row], known_at: str
    ) -> tuple[Float64Array, Accuracy]:
        """Concept scores [n] along the CAV at a layer, and how well held-out examples are told apart there.

        Features are those of each position of an input, and means over positions of a layer.
        """
        with error_context(f"/concepts/{concept}"):
            sides = concept_rows(self.plan, self.source.names, concept)
            fitted = [*dict.fromkeys((*sides.concept, *sides.reference))]
            place = {row: number for number, row in enumerate(fitted)}
            by_set = [row for examples in dict.fromkeys(of for of, _ in fitted) for row in fitted if row[0] == examples]
            features = dict(zip(by_set, self._features(opened, by_set, known_at), strict=True))
            x = np.stack([features[row] for row in fitted])
            one, other = (np.array([place[row] for row in side], np.intp) for side in (sides.concept, sides.reference))
            pairs = np.arange(len(one)) if sides.paired else None
            data = ConceptData(k=inner_products(x), concept=one, reference=other, pairs=pairs)
            settings = Settings.of(self.plan.audit.method)
            alpha = cav_of(data, settings)
            drawn = generator(self.plan.audit.method.seed, known_at, concept)
            told, _ = encoding(fit_problem_of(data, settings), drawn)
        at = np.stack(list(self._features(opened, rows, known_at))).astype(float)
        return at @ direction(alpha, x), told

    def _features(self, opened: OpenModel, rows: Sequence[Row], layer: str) -> Iterator[AnyArray]:
        whole = layer == INPUT and not opened.entry.embeds
        for one in self._at(opened, rows, layer):
            yield one.ravel() if whole else one.mean(0)

    def _labels(self, examples: str, labels: str) -> Indices:
        """The number of each example's label, in the order of their first appearance."""
        values = [str(value) for value in label_values(self.source, examples, labels)]
        numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
        return np.array([numbers[value] for value in values], np.intp)


def _numbers(opened: OpenModel) -> Graph:
    return differentiate(opened.model, [], [opened.target], alone=True)


def _at_value(values: AnyArray, direction: Float64Array, value: float) -> AnyArray:
    """Values [n, …], at every position of which the part along a direction of length 1 is set to a value."""
    axis = channel_axis(values.shape)
    last = values.reshape(len(values), -1) if axis is None else np.moveaxis(values, axis, -1)
    held = last - (last.astype(float) @ direction - value)[..., None] * direction
    whole = held.reshape(values.shape) if axis is None else np.moveaxis(held, -1, axis)
    return np.ascontiguousarray(whole, values.dtype)


def _together(several: Sequence[AnyArray], layer: str) -> AnyArray:
    """Examples of any length as one array: where an example is shorter, its first position stands again."""
    longest = max(len(one) for one in several)
    size = longest * several[0].shape[-1] * len(several)
    if size > _LARGEST:
        raise InvalidInput(
            "too-large-to-discover",
            f"'{layer}' has {size:,} numbers at {len(several):,} examples, and {_LARGEST:,} are allowed.",
            f"Give the set a 'limit' of {_LARGEST * len(several) // size:,}, or name a deeper layer.",
        )
    return np.stack([np.concatenate([one, np.repeat(one[:1], longest - len(one), axis=0)]) for one in several])


def _digest(feeds: Mapping[str, AnyArray]) -> str:
    """Of an example's content, as the model takes it."""
    digest = hashlib.sha256()
    for name, array in sorted(feeds.items()):
        whole = repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + whole)
    return digest.hexdigest()
