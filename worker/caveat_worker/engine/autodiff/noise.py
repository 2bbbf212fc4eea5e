"""Seeded noise as a model's inputs, for the runs that need no examples; categories where the graph encodes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from caveat_worker.engine.autodiff.model import rounds_by_batch
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.columns import InputColumn, input_columns
from caveat_worker.engine.onnx.session import Feeds, Session
from caveat_worker.engine.onnx.values import shape_of_value

Run: TypeAlias = tuple[Feeds, dict[str, NDArray[Any]]]
"""A session's feeds, and its outputs for them."""

UNUSUAL_BATCH = 5
"""A batch size that no other axis is likely to have."""
EXACT, QUANTISED = 1e-3, 0.1
"""By how much rounding may change numbers, relative to the largest: of float32, and to integers."""
_WORDS = ("one", "two")
_SIZES = (2, 32, 64, 224, 640)  # tried for dimensions that are not fixed; detectors need multiples of their strides


def noises(model: ir.Model, *, batch: int = 2, seed: int = 0) -> Iterator[Feeds]:
    """Yields `noise_for` with each size that is tried for open dimensions; nothing if a type is unknown."""
    for size in _SIZES:
        feeds = noise_for(model, batch=batch, size=size, seed=seed)
        if feeds is not None:
            yield feeds


def runs(session: Session, candidates: Iterable[Feeds]) -> Iterator[Run]:
    """Runs a session on each of the feeds, and leaves out those on which it fails."""
    for feeds in candidates:
        try:
            outputs = session.run(feeds)
        except InvalidInput:  # too small for its poolings, perhaps
            continue
        yield feeds, outputs


def by_rounding(model: ir.Model) -> float:
    """By how much an example's numbers may change beside others, relative to the largest, by rounding alone."""
    return QUANTISED if rounds_by_batch(model) else EXACT


def noise_for(model: ir.Model, *, batch: int = 2, size: int = 2, seed: int = 0) -> Feeds | None:
    """Seeded inputs [batch, size, ...]: standard normal, or 0 and 1 for integers; None if an input's type is unknown.

    A column that the graph encodes gets the categories that it knows, any other text two words. A mask whose sum is the
    length of a text hides nothing: behind that length the runtime leaves what it finds. Dimensions that the
    model fixes keep their size, and those that it names like the batch have the batch's.
    """
    rng = np.random.default_rng(seed)
    columns, masks = input_columns(model), _masks_of_lengths(model)
    feeds = {}
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    leading = {name for value in inputs for name in (shape_of_value(value) or ())[:1] if isinstance(name, str)}
    for value in inputs:
        shape = [
            d if isinstance(d, int) else batch if d in leading or not i else size
            for i, d in enumerate(shape_of_value(value) or ())
        ]
        if value.dtype is None:
            return None
        noise: NDArray[Any]
        if value.dtype == ir.DataType.STRING:
            noise = rng.choice(np.array(_WORDS, object), shape)
        elif value.dtype.is_floating_point():
            noise = rng.standard_normal(shape)
        else:
            noise = rng.integers(value in masks, 2, shape)
        drawn = _with_categories(noise, columns.get(value.name or "", ()), rng)
        feeds[value.name or ""] = drawn if drawn.dtype == object else drawn.astype(value.dtype.numpy())
    return feeds


def _masks_of_lengths(model: ir.Model) -> set[ir.Value]:
    """The inputs that grouped queries have the lengths of their texts from."""
    found: set[ir.Value] = set()
    left = [node.inputs[5] for node in model.graph if node.op_type == "GroupQueryAttention" and len(node.inputs) > 5]
    while left:
        value = left.pop()
        if value is not None and value not in found:
            found.add(value)
            left += [] if (maker := value.producer()) is None else maker.inputs
    return found


def _with_categories(noise: NDArray[Any], columns: Sequence[InputColumn], rng: np.random.Generator) -> NDArray[Any]:
    """The noise with categories in the columns that the graph encodes."""
    for position, column in enumerate(columns):
        if column.categories:
            drawn = rng.choice(np.array(column.categories, noise.dtype), len(noise))
            noise[(slice(None), position) if noise.ndim > 1 else slice(None)] = drawn
    return noise
