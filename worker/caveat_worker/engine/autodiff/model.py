"""A model in the one form that the rest of the engine works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir

from caveat_worker.engine.onnx.graph import TensorInfo
from caveat_worker.engine.onnx.stored_weights import Stored

OLDEST_OPSET = 18
"""The ai.onnx opset that the rules are written for; older graphs are converted to it."""


DRAWS = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Operators that draw random numbers."""
_ROUNDS_BY_BATCH = {"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"}


def rounds_by_batch(model: onnx_ir.Model) -> bool:
    """Whether a model rounds all examples of a batch on one scale."""
    return any(node.op_type in _ROUNDS_BY_BATCH for node in model.graph.all_nodes())


@dataclass(frozen=True)
class Placement:
    """Where a tensor has what is an example's own."""

    axis: int
    """Along which examples follow each other."""
    count: int
    """How many places of that axis each has, one behind the other."""

    def order(self, rank: int) -> tuple[int, ...]:
        """The axes of a tensor with that one first."""
        return (self.axis, *(axis for axis in range(rank) if axis != self.axis))


USUAL = Placement(0, 1)
"""One row for each example."""


@dataclass(frozen=True)
class Model:
    """A checked model: functions inlined, constants lifted, opset 18 or later, shapes inferred."""

    ir: onnx_ir.Model
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    symbolic_batch: bool
    warnings: tuple[str, ...]
    opset: int
    interacts: bool
    """Whether examples of one batch influence each other's outputs."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the file's maker wrote into it, by its own keys."""
    class_names: tuple[tuple[str, ...], ...] = ()
    """Each list of class names that the file holds, in the order of an output's scores."""
    weights: tuple[str, ...] = ()
    """The inputs of its graph that stand for weights, which no example changes."""
    rows: dict[str, Placement | None] = field(default_factory=dict, repr=False, compare=False)
    """Where tensors have their examples, by name, as far as it has been tried; None for nowhere."""

    @property
    def runs_alone(self) -> bool:
        """Whether an example's neighbours change its outputs by more than the rounding that quantised models share."""
        return self.interacts and not rounds_by_batch(self.ir)

    @property
    def weights_in_file(self) -> bool:
        """Whether large weights stay in its file, so that every run reads them again, and widens halves for itself."""
        return any(isinstance(value.const_value, Stored) for value in self.ir.graph.initializers.values())

    def value(self, name: str) -> onnx_ir.Value | None:
        """The tensor of that name, or the first output of the node of that name; None if there is neither."""
        for value in (*self.ir.graph.inputs, *self.ir.graph.initializers.values()):
            if value.name == name:
                return value
        by_node = None
        for node in self.ir.graph:
            for output in node.outputs:
                if output.name == name:
                    return output
            if node.name == name and by_node is None:
                by_node = node.outputs[0]
        return by_node
