"""The order in which explanations see the axes of a tensor, whatever the model's own is.

Sequences are [n, positions, channels] and pictures are [n, channels, height, width]; rows of a table have no channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caveat_worker.engine.autodiff.channels import channel_axis, usual_axis
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.base.arrays import AnyArray
from caveat_worker.engine.onnx.values import Dim, shape_of_value

_COLOURS = (1, 3, 4)


@dataclass(frozen=True)
class Layout:
    """Where the axes of a model's tensor [n, …] stand for explanations."""

    order: tuple[int, ...]
    """For each axis that explanations see, the model's own; empty where they are the same."""

    def seen(self, array: AnyArray) -> AnyArray:
        """An array in the model's order as explanations see it."""
        return array.transpose(self.order) if self.order else array

    def own(self, array: AnyArray) -> AnyArray:
        """An array as explanations see it in the model's order."""
        return np.ascontiguousarray(array.transpose(np.argsort(self.order))) if self.order else array

    def sizes(self, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """A tensor's shape as explanations see it."""
        return tuple(shape[axis] for axis in self.order) if self.order else shape


SAME = Layout(())


def layout_of(model: Model, tensor: str) -> Layout:
    """The layout of a model's tensor: by the operators around it, and by its sizes where those say nothing."""
    value = model.value(tensor)
    shape = () if value is None else shape_of_value(value) or ()
    if len(shape) < 3:
        return SAME
    found = channel_axis(model, tensor)
    axis = _usual(shape, picture=value is not None and value.is_graph_input()) if found is None else found
    place = 2 if len(shape) == 3 else 1
    others = [one for one in range(len(shape)) if one != axis]
    order = (*others[:place], axis, *others[place:])
    return SAME if order == tuple(range(len(shape))) else Layout(order)


def _usual(shape: tuple[Dim, ...], *, picture: bool) -> int:
    """Where channels are where no operator says so: colours may be last."""
    if len(shape) > 3 and picture and shape[-1] in _COLOURS and shape[1] not in _COLOURS:
        return len(shape) - 1
    return usual_axis(len(shape))
