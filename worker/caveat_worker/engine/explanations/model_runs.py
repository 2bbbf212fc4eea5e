"""Runs of a real model: sessions in ONNX Runtime, opened when an explanation first asks for them.

What stands for the input is the model's only input of numbers, the largest of several, all columns of a table that the
model takes one by one, or, for a model that takes token ids, the first tensor of numbers behind them. The model's other
inputs keep the values that they have for the example. Explanations see each tensor in one order of axes (`layout`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.activations.batches import BATCH_BYTES, LARGEST_BATCH, numbers_in
from caveat_worker.engine.activations.pooling import Mask, marked
from caveat_worker.engine.autodiff.biases import bias_part
from caveat_worker.engine.autodiff.differentiate import cut_at, differentiate, expose, find_layer, opened_at, vjp
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.redrawn import with_weights_as_inputs
from caveat_worker.engine.autodiff.rules import COMPARES, TABLES
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.autodiff.tokens import mask_of_layer
from caveat_worker.engine.base.arrays import AnyArray, Float32Array, Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations.atoms import channel_axis
from caveat_worker.engine.explanations.entry import Entry, find_entry
from caveat_worker.engine.explanations.factors import Dictionary
from caveat_worker.engine.explanations.layout import SAME, Layout, layout_of
from caveat_worker.engine.explanations.receptive_field import receptive_field
from caveat_worker.engine.explanations.runs import (
    FORWARD,
    GRADIENT,
    INPUT,
    Components,
    Direction,
    Examined,
    Labelled,
    Streamed,
)
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.onnx.session import Feeds, Provider, Session, open_session
from caveat_worker.engine.onnx.values import shape_of_value

_HELD_AT_ONCE = 4  # tensors of the largest size that a forward pass holds


@dataclass(frozen=True)
class OpenModel:
    """A model, a target, and the sessions that explanations of its examples share."""

    model: Model
    target: Target
    provider: Provider = "cpu"
    threads: int = 1
    sessions: dict[tuple[str, ...], Session] = field(default_factory=dict)
    layouts: dict[str, Layout] = field(default_factory=dict)
    kept: dict[tuple[str, ...], Any] = field(default_factory=dict)
    """What else was found with this model and does not depend on the example."""
    fed: Feeds | None = None
    """Its weights by name, where sessions take them as inputs and are shared with models of other weights."""

    def __post_init__(self) -> None:
        entry = find_entry(self.model, self.target)
        model = self.model if self.fed is None else with_weights_as_inputs(self.model)
        behind = opened_at(model, entry.names[0]) if entry.embeds else model
        object.__setattr__(self, "entry", entry)
        object.__setattr__(self, "behind", behind)
        object.__setattr__(self, "scores_at", resolve_target(self.model, self.target).tensor)

    entry: Entry = field(init=False)
    behind: Model = field(init=False)
    """The model with what stands for its input as an input."""
    scores_at: str = field(init=False)

    def of(self, model: Model) -> OpenModel:
        """Another model, opened for the same target."""
        return OpenModel(model, self.target, self.provider, self.threads)

    def with_weights(self, weights: Feeds) -> OpenModel:
        """The same model with other weights in the same sessions; of one that is fed its own."""
        other = copy(self)
        object.__setattr__(other, "fed", {**(self.fed or {}), **weights})
        object.__setattr__(other, "kept", {})
        return other

    def session(self, *key: str, graph: Callable[[], Graph]) -> Session:
        """The session of a graph, opened once."""
        if key not in self.sessions:
            self.sessions[key] = open_session(graph(), provider=self.provider, threads=self.threads)
        return self.sessions[key]

    def layers(self, at: str) -> list[str]:
        """The tensors of a layer, or those that stand for the input and have a gradient."""
        return list(self.entry.with_gradient) if at == INPUT else [find_layer(self.behind, at)]

    def gradient_graph(self, at: str, rules: str) -> Graph:
        """The target's gradient at the input or a layer; raises InvalidInput for operators that a table lacks."""
        against = self.entry.names if rules in COMPARES else ()
        with _named(rules):
            return differentiate(
                self.behind, self.layers(at), [self.target], rules=TABLES[rules], against=against, alone=True
            )

    def between(self, upper: str, bottom: str) -> Graph:
        """The graph from one tensor to a layer and back, of which only the nodes between them run."""
        return vjp(opened_at(self.behind, bottom), upper, [bottom])

    def around(self, feeds: Mapping[str, AnyArray]) -> tuple[ModelRuns, AnyArray]:
        """Runs around one example, given as the model's inputs [1, …] by name, and what stands for its input."""
        others = {name: array for name, array in feeds.items() if name not in self.entry.names}
        return ModelRuns(self, others), self.input_of(feeds)

    def input_of(self, feeds: Mapping[str, AnyArray]) -> AnyArray:
        """What stands for the input [n, …] of examples that are given by the model's inputs."""
        if not self.entry.embeds:
            return self.layout(INPUT).seen(self.entry.joined(feeds))
        name = self.entry.names[0]
        return self.layout(INPUT).seen(self.session("embed", graph=lambda: expose(self.model, [name])).run(feeds)[name])

    def layout(self, layer: str) -> Layout:
        """How explanations see the axes of a layer, or of what stands for the input."""
        if layer == INPUT and len(self.entry.tensors) > 1:
            return SAME
        name = self.entry.names[0] if layer == INPUT else find_layer(self.model, layer)
        if name not in self.layouts:
            self.layouts[name] = layout_of(self.model, name)
        return self.layouts[name]

    def marks(self, layer: str, feeds: Mapping[str, AnyArray]) -> Mask | None:
        """Which positions of a layer are tokens [n, positions], by the mask among the model's inputs; None for all."""
        key = ("mask", layer)
        if key not in self.kept:
            self.kept[key] = mask_of_layer(self.model, find_layer(self.model, layer))
        return marked(feeds, self.kept[key])

    def batch(self, *, gradient: bool, feeds: Feeds | None = None) -> int:
        """How many examples one batch may have, where axes that the model leaves open are as long as in feeds."""
        if not self.model.symbolic_batch or self.model.interacts:
            return 1
        lengths = self._lengths(feeds or {})
        key = ("batch", str(gradient), str(lengths))
        if key not in self.kept:
            shapes = [shape_of_value(value) or () for node in self.model.ir.graph for value in node.outputs]
            sizes = [numbers_in(shape, lengths) for shape in shapes]
            held = 2 * sum(sizes) if gradient else _HELD_AT_ONCE * max(sizes, default=1)
            self.kept[key] = int(np.clip(BATCH_BYTES // (4 * max(held, 1)), 1, LARGEST_BATCH))
        return int(self.kept[key])

    def _lengths(self, feeds: Feeds) -> dict[str | None, int]:
        """How long axes are in feeds that have names in place of sizes, as the number of a text's tokens has."""
        given = [(shape_of_value(value) or (), feeds.get(value.name or "")) for value in self.behind.ir.graph.inputs]
        return {
            size: length
            for shape, array in given
            if array is not None
            for size, length in zip(shape[1:], array.shape[1:], strict=False)
            if isinstance(size, str)
        }


Directions = Callable[[OpenModel, str, str, str], Direction]
"""(model, concept, layer, reduction) → the concept's CAV there, for the example that runs are around."""

LabelledSets = Callable[[OpenModel, str, str], Labelled]
"""(model, example set, labels) → the set at the model's head."""

ExaminedSets = Callable[[OpenModel, str, str, str | None, str], Examined]
"""(model, example set, layer, labels, layer of concept scores) → the set at that layer."""

Dictionaries = Callable[[OpenModel, str, str, int], Dictionary]
"""(model, example set, layer, how many) → groups of the layer's channels over the set."""

SharedComponents = Callable[[OpenModel, str, str], Components]
"""(model, example set, layer) → the principal components of the layer's places over the set."""

StreamedSets = Callable[[OpenModel, str, str, str | None], Streamed]
"""(model, example set, layer, labels) → the set at that layer, some examples at a time."""


class ModelRuns:
    """`Runs` of an open model around one example, whose other inputs stay as they are."""

    def __init__(self, opened: OpenModel, others: Feeds) -> None:
        self.opened = opened
        self.others = others
        self.typical: AnyArray | None = None
        self.ranges: AnyArray | None = None
        self.tokens: int | None = None
        self.scores_at = opened.scores_at
        self.directions: Directions | None = None
        self.labelled_sets: LabelledSets | None = None
        self.examined_sets: ExaminedSets | None = None
        self.dictionaries: Dictionaries | None = None
        self.shared_components: SharedComponents | None = None
        self.streamed_sets: StreamedSets | None = None
        self._passes = 0

    @property
    def passes(self) -> int:
        """Forward passes so far; a gradient counts as five."""
        return self._passes

    def scores(self, x: AnyArray) -> Float64Array:
        """The target's number S [n] at inputs [n, …]."""
        opened = self.opened
        session = opened.session("scores", graph=lambda: differentiate(opened.behind, [], [opened.target], alone=True))
        return np.asarray(self._run(session, f"value/{opened.target.name}", FORWARD, x), float)

    def gradient(self, x: AnyArray, at: str = INPUT, *, rules: str = "vjp") -> Float32Array:
        """∂S/∂a [n, …] at the input or at a layer a, by a table of backward rules that need no reference."""
        found: Float32Array = self._backward(x, at, rules)[1]
        return found

    def scored_gradient(self, x: AnyArray) -> tuple[Float64Array, Float32Array]:
        """S [n] and ∂S/∂x [n, …] at inputs [n, …], for the price of the gradient."""
        return self._backward(x, INPUT, "vjp")

    def multipliers(self, x: AnyArray, reference: AnyArray) -> tuple[Float64Array, Float64Array, Float32Array]:
        """S at inputs and at their references [n], and multipliers m [n, …] with Σ m·(x - x̄) = S(x) - S(x̄)."""
        further = {f"reference/{name}": array for name, array in self._split(reference).items()}
        also = f"reference/{self.opened.target.name}"
        scores, found, others = self._backward(x, INPUT, "rescale", further, also)
        return scores, others, found

    def _backward(
        self, x: AnyArray, at: str, rules: str, further: Mapping[str, AnyArray] | None = None, *also: str
    ) -> tuple[Any, ...]:
        """S [n], what a table of rules passes back to the input or a layer [n, …], and further outputs of the graph."""
        opened, layers = self.opened, self.opened.layers(at)
        session = opened.session("gradient", at, rules, graph=lambda: opened.gradient_graph(at, rules))
        value, names = f"value/{opened.target.name}", [f"gradient/{opened.target.name}/{layer}" for layer in layers]
        price = GRADIENT if further is None else GRADIENT + 2 * FORWARD
        found = self._run_all(session, [value, *names, *also], price, x, further)
        gradient = found[names[0]] if at != INPUT else opened.entry.gathered(found, names, x)
        others = (np.asarray(found[name], float) for name in also)
        return np.asarray(found[value], float), opened.layout(at).seen(gradient), *others

    def sees(self, layer: str, x: AnyArray) -> float:
        """The share of the longer side of the input [n, …] that one place of a layer sees; 1 for all of it."""
        opened, own = self.opened, self.opened.layout(INPUT).order or tuple(range(x.ndim))
        if len(opened.entry.tensors) > 1:
            return 1.0
        fields = receptive_field(opened.behind, find_layer(opened.behind, layer), opened.entry.names[0])
        widths = {sees.axis: sees.width for sees in fields if sees is not None}
        places = [axis for axis in range(1, x.ndim) if axis != channel_axis(x.shape)]
        return max((min(widths.get(own[one], x.shape[one]) / x.shape[one], 1.0) for one in places), default=1.0)

    def activations(self, x: AnyArray, layer: str) -> Float32Array:
        """The activations of a layer [n, …]; of the layer `input`, the input itself."""
        if layer == INPUT:
            return self.opened.entry.numbers(x)
        name = find_layer(self.opened.behind, layer)
        session = self.opened.session("activations", name, graph=lambda: expose(self.opened.behind, [name]))
        return self.opened.layout(layer).seen(self._run(session, name, FORWARD, x))

    def pull(self, upper: str, seeds: Float32Array, lower: str, x: AnyArray) -> Float32Array:
        """The cotangents at `lower` [k, …] of the seeds at `upper` [k, …], all at one input x [1, …]."""
        opened, bottom = self.opened, self._one_layer(lower)
        session = opened.session("pull", upper, bottom, graph=lambda: opened.between(upper, bottom))
        further = {f"seed/{find_layer(opened.behind, upper)}": opened.layout(upper).own(seeds)}
        if lower != INPUT:
            further[bottom] = np.repeat(opened.layout(lower).own(self.activations(x, lower)), len(seeds), axis=0)
        pulled = self._run(session, f"gradient/{bottom}", GRADIENT, np.repeat(x, len(seeds), axis=0), further)
        return opened.layout(lower).seen(pulled)

    def rest(self, layer: str, a: Float32Array, x: AnyArray) -> Float64Array:
        """The target's number [n] with activations [n, …] put in place of a layer's at one input x [1, …]."""
        opened, name = self.opened, self._one_layer(layer)
        session = opened.session("rest", name, graph=lambda: cut_at(opened.behind, name, [opened.target], alone=True))
        instead = {name: opened.layout(layer).own(np.asarray(a))}
        values = self._run(session, f"value/{opened.target.name}", FORWARD, np.repeat(x, len(a), axis=0), instead)
        return np.asarray(values, float)

    def rest_gradient(self, layer: str, a: Float32Array, x: AnyArray) -> Float32Array:
        """∂S/∂a [n, …] with activations [n, …] put in place of a layer's at one input x [1, …]."""
        opened, name = self.opened, self._one_layer(layer)
        session = opened.session(
            "rest_gradient",
            name,
            graph=lambda: differentiate(opened_at(opened.behind, name), [name], [opened.target], alone=True),
        )
        output, instead = f"gradient/{opened.target.name}/{name}", {name: opened.layout(layer).own(np.asarray(a))}
        return opened.layout(layer).seen(self._run(session, output, GRADIENT, np.repeat(x, len(a), axis=0), instead))

    def direction(self, concept: str, layer: str, reduce: str) -> Direction:
        """The CAV of a concept at a layer, in units of the reference set's spread along it."""
        if self.directions is None:
            raise ValueError("runs have no concepts of their own; whoever opens them sets `directions`")
        found = self.directions(self.opened, concept, layer, reduce)
        marks = self.opened.marks(layer, self.others) if reduce == "mean" else None
        return found if marks is None or found.v.shape[:1] != marks.shape[1:] else replace(found, tokens=marks[0])

    def labelled(self, examples: str, labels: str) -> Labelled:
        """A labelled example set at the model's last affine layer."""
        if self.labelled_sets is None:
            raise ValueError("runs have no examples of their own; whoever opens them sets `labelled_sets`")
        return self.labelled_sets(self.opened, examples, labels)

    def examined(self, examples: str, layer: str, labels: str | None, known_at: str) -> Examined:
        """An example set at a layer, with its labels, and with scores of the audit's concepts at another layer."""
        if self.examined_sets is None:
            raise ValueError("runs have no examples of their own; whoever opens them sets `examined_sets`")
        return self.examined_sets(self.opened, examples, layer, labels, known_at)

    def dictionary(self, examples: str, layer: str, count: int) -> Dictionary:
        """So many groups of a layer's channels over an example set."""
        if self.dictionaries is None:
            raise ValueError("runs have no examples of their own; whoever opens them sets `dictionaries`")
        return self.dictionaries(self.opened, examples, layer, count)

    def components(self, examples: str, layer: str) -> Components:
        """The principal components of a layer's places over an example set."""
        if self.shared_components is None:
            raise ValueError("runs have no examples of their own; whoever opens them sets `shared_components`")
        return self.shared_components(self.opened, examples, layer)

    def streamed(self, examples: str, layer: str, labels: str | None) -> Streamed:
        """An example set at a layer, some examples at a time; by their labels, those of the target's class apart."""
        if self.streamed_sets is None:
            raise ValueError("runs have no examples of their own; whoever opens them sets `streamed_sets`")
        return self.streamed_sets(self.opened, examples, layer, labels)

    def bias_part(self, x: AnyArray, *, rules: str = "vjp") -> float:
        """Σ b·∂S/∂b over all biases b, at one input x [1, …]."""
        if len(x) != 1:
            raise ValueError(f"biases have cotangents of their own for one example only, not for {len(x)}")
        opened = self.opened
        with _named(rules):
            session = opened.session(
                "biases", rules, graph=lambda: bias_part(opened.behind, opened.target, rules=TABLES[rules])
            )
        self._passes += GRADIENT
        return float(session.run(self._feeds(x, {}))[f"biases/{opened.target.name}"])

    def _one_layer(self, at: str) -> str:
        """The tensor of a layer; raises `InvalidInput` where the input is several tensors."""
        if at == INPUT and len(self.opened.entry.tensors) > 1:
            raise InvalidInput(
                "input-is-no-layer",
                "The model takes its columns one by one, so that its input is no layer that can be taken apart.",
                "Name a layer inside the model, or explain the input by shapley or occlusion.",
                "layer",
            )
        return self.opened.layers(at)[0]

    def _run(
        self, session: Session, name: str, price: int, x: AnyArray, further: Mapping[str, AnyArray] | None = None
    ) -> NDArray[Any]:
        return self._run_all(session, [name], price, x, further)[name]

    def _run_all(
        self,
        session: Session,
        names: list[str],
        price: int,
        x: AnyArray,
        further: Mapping[str, AnyArray] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Outputs of a session by name, computed in batches."""
        self._passes += price * len(x)
        found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        size = self.opened.batch(gradient=price > FORWARD, feeds=self._feeds(x[:1], {}))
        for rows in _batches(len(x), size):
            outputs = session.run(self._feeds(x[rows], {key: value[rows] for key, value in (further or {}).items()}))
            for name in names:
                found[name].append(outputs[name])
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _feeds(self, x: AnyArray, further: Mapping[str, AnyArray]) -> Feeds:
        others = {name: np.repeat(array, len(x), axis=0) for name, array in self.others.items()}
        return {**others, **(self.opened.fed or {}), **self._split(x), **further}

    def _split(self, x: AnyArray) -> dict[str, AnyArray]:
        """What stands for the input, in the model's own tensors, types and order of axes."""
        return self.opened.entry.split(self.opened.layout(INPUT).own(x))


def _batches(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, start + size)


@contextmanager
def _named(rules: str) -> Iterator[None]:
    """Says which table of rules does not cover a model, where it is not that of derivatives."""
    try:
        yield
    except InvalidInput as error:
        if rules == "vjp" or error.code != "no-gradient-rule":
            raise
        raise InvalidInput(
            "no-rule-in-table",
            f"The rules of '{rules}' do not cover this model. {error.sentence.partition('. ')[2]}",
            "gradient_x_input and integrated_gradients work here.",
        ) from error
