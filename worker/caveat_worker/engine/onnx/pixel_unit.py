"""Which pixels a model expects at an input, by what the graph computes with them first."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from caveat_worker.engine.onnx.values import constant_of

BRIGHTEST = 255.0
_KEEPS = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_DIVISORS = 100.0, 260.0
"""What pixels of 0 to 255 are divided by: 127, 127.5, 128, 255 and 256, not the deviations of channels, near 58."""
_SHARES = 0.05, 0.95
"""Means and deviations of pixels of 0 to 1."""
_LEVELS, _DEVIATIONS = (90.0, 160.0), (40.0, 260.0)
"""Means and deviations of pixels of 0 to 255."""


def brightest_pixel(given: ir.Value) -> float | None:
    """The value of a white pixel that the graph expects at an input; None where its first steps do not show it.

    255 where they divide by about that or half of it, or subtract a mean of such pixels and divide by a deviation; 1
    where mean and deviation are those of pixels of 0 to 1.
    """
    taken: float | None = None  # the unit of a mean that was subtracted
    value: ir.Value | None = given
    while value is not None:
        consumers = value.consumers()
        if len(consumers) != 1:
            return None
        node = consumers[0]
        factor, mean = _factor(node, value), _mean(node, value)
        if (node.op_type in _KEEPS and node.inputs[0] is value) or (factor is not None and np.allclose(factor, 1)):
            value = node.outputs[0]
        elif factor is not None:
            return _unit_of_division(1 / factor, taken)
        elif mean is not None and taken is None and (unit := _unit_of_mean(mean)) is not None:
            taken, value = unit, node.outputs[0]
        else:
            return None
    return None


def _unit_of_mean(mean: NDArray[Any]) -> float | None:
    return 1.0 if _within(mean, _SHARES) else BRIGHTEST if _within(mean, _LEVELS) else None


def _unit_of_division(divisor: NDArray[Any], taken: float | None) -> float | None:
    """The unit of pixels that are divided so, after a mean of some unit was subtracted, or after none was."""
    if taken == 1.0:
        return taken if _within(divisor, _SHARES) else None
    if taken == BRIGHTEST:
        return taken if _within(divisor, _DEVIATIONS) else None
    return BRIGHTEST if _within(divisor, _DIVISORS) else None


def _within(values: NDArray[Any], bounds: tuple[float, float]) -> bool:
    return bool(((values >= bounds[0]) & (values <= bounds[1])).all())


def _factor(node: ir.Node, value: ir.Value) -> NDArray[Any] | None:
    """What a node multiplies a value by; None where it does anything else."""
    if node.op_type == "Div" and node.inputs[0] is value:
        divisor = _constant(node.inputs[1])
        return None if divisor is None or not divisor.all() else 1 / divisor
    if node.op_type == "Mul":
        factor = _constant(node.inputs[1] if node.inputs[0] is value else node.inputs[0])
        return None if factor is None or not factor.all() else factor
    return None


def _mean(node: ir.Node, value: ir.Value) -> NDArray[Any] | None:
    """What a node subtracts from a value; None where it does anything else."""
    if node.op_type == "Sub" and node.inputs[0] is value:
        return _constant(node.inputs[1])
    if node.op_type == "Add":
        added = _constant(node.inputs[1] if node.inputs[0] is value else node.inputs[0])
        return None if added is None else -added
    return None


def _constant(value: ir.Value | None) -> NDArray[Any] | None:
    """A constant of numbers as floats; None for anything else."""
    found = constant_of(value)
    return None if found is None or not found.size or found.dtype.kind not in "fiu" else found.astype(np.float64)
