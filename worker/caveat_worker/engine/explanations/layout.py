"""The order in which explanations see the axes of a tensor, whatever the model's own is.

Sequences are [n, positions, channels] and pictures are [n, channels, height, width]; rows of a table have no channels.
Several sequences of one example, such as its windows, are one: [n, sequences, positions, channels] is seen as
[n, sequences · positions, channels].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caveat_worker.engine.autodiff.by_example import own_rows, shape_by_example
from caveat_worker.engine.autodiff.channels import channel_axis, usual_axis
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.base.arrays import AnyArray
from caveat_worker.engine.onnx.values import Dim

_COLOURS = (1, 3, 4)


@dataclass(frozen=True)
class Layout:
    """Where the axes of a model's tensor [n, …] stand for explanations."""

    order: tuple[int, ...]
    """For each axis that explanations see, the model's own; empty where they are the same."""
    joined: tuple[int, int] | None = None
    """Sequences and their positions where several are seen as one; one of the two may be -1, which is not known."""

    def seen(self, array: AnyArray) -> AnyArray:
        """An array in the model's order as explanations see it."""
        ordered = array.transpose(self.order) if self.order else array
        return ordered if self.joined is None else ordered.reshape(len(ordered), -1, ordered.shape[-1])

    def own(self, array: AnyArray) -> AnyArray:
        """An array as explanations see it in the model's order."""
        parted = array if self.joined is None else array.reshape(len(array), *self.joined, array.shape[-1])
        return np.ascontiguousarray(parted.transpose(np.argsort(self.order))) if self.order else parted

    def sizes(self, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """A tensor's shape as explanations see it."""
        ordered = tuple(shape[axis] for axis in self.order) if self.order else shape
        if self.joined is None:
            return ordered
        return ordered[0], None if -1 in self.joined else self.joined[0] * self.joined[1], ordered[-1]


SAME = Layout(())


def layout_of(model: Model, tensor: str) -> Layout:
    """The layout of a model's tensor: by the operators around it, and by its sizes where those say nothing."""
    value, shape = model.value(tensor), shape_by_example(model, tensor) or ()
    if len(shape) < 3:
        return SAME
    found = channel_axis(model, tensor)
    axis = _usual(shape, picture=value is not None and value.is_graph_input()) if found is None else found
    rows = own_rows(model, tensor)
    sequences = _sequences(shape, axis) if rows is not None and rows.count > 1 else None
    place = len(shape) - 1 if len(shape) == 3 or sequences else 1
    others = [one for one in range(len(shape)) if one != axis]
    order = (*others[:place], axis, *others[place:])
    return Layout(() if order == tuple(range(len(shape))) else order, sequences)


def _sequences(shape: tuple[Dim, ...], channels: int) -> tuple[int, int] | None:
    """Of a tensor that has several sequences for each example, how many and how long they are."""
    if len(shape) != 4 or channels == 1:
        return None
    rows, positions = shape[1], shape[5 - channels]
    known = (rows if isinstance(rows, int) else -1, positions if isinstance(positions, int) else -1)
    return None if known == (-1, -1) else known


def _usual(shape: tuple[Dim, ...], *, picture: bool) -> int:
    """Where channels are where no operator says so: colours may be last."""
    if len(shape) > 3 and picture and shape[-1] in _COLOURS and shape[1] not in _COLOURS:
        return len(shape) - 1
    return usual_axis(len(shape))
