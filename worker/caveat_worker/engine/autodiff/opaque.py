"""Models that no gradient passes through, such as trees: whether one is, and which node stands in the way."""

from __future__ import annotations

import onnx_ir as ir

from caveat_worker.engine.autodiff.backward import describe, reached_from, read_by
from caveat_worker.engine.autodiff.differentiate import gradient_state
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.rules import DEFINED, UNDIFFERENTIABLE, VJP
from caveat_worker.engine.autodiff.target import Target, resolve_target


def float_inputs(model: Model, target: Target) -> tuple[str, ...]:
    """The inputs of numbers with a fraction that lead to a target."""
    on_path = values_between(model, resolve_target(model, target).tensor)
    return tuple(
        value.name or ""
        for value in model.ir.graph.inputs
        if value in on_path and value.dtype is not None and value.dtype.is_floating_point()
    )


def is_opaque(model: Model, target: Target) -> bool:
    """Whether the target depends on inputs of numbers, and no gradient reaches any of them."""
    inputs = float_inputs(model, target)
    state = gradient_state(model, target, inputs) if inputs else {}
    return bool(inputs) and not any(name in state and state[name] is None for name in inputs)


def obstacle(model: Model, target: Target) -> str | None:
    """What stops the gradient of a target, as a clause: a formula that lacks a shape, or the last node without one."""
    states = gradient_state(model, target, float_inputs(model, target))
    unknown = next((reason for reason in states.values() if reason is not None and "is not known" in reason), None)
    if unknown is not None:
        return f"{unknown[0].lower()}{unknown[1:].rstrip('.')}"
    on_path = values_between(model, resolve_target(model, target).tensor)
    for node in reversed(list(model.ir.graph)):
        operator = (node.domain, node.op_type)
        if not any(output in on_path for output in node.outputs):
            continue
        if operator in UNDIFFERENTIABLE:
            return f"no gradient passes {describe(node)}, because {UNDIFFERENTIABLE[operator]}"
        if operator not in VJP and node.op_type not in DEFINED and node.op_type != "If":
            return f"no gradient passes {describe(node)}, because there is no rule for it"
    return None


def values_between(model: Model, target: str) -> set[ir.Value]:
    """The values on a path from the model's inputs to the target's tensor."""
    nodes = list(model.ir.graph)
    reached = reached_from(nodes, [v for v in model.ir.graph.inputs if not v.is_initializer()])
    needed = {model.value(target)}
    for node in reversed(nodes):
        if any(output in needed for output in node.outputs):
            needed.update(read_by(node))
    return {v for v in reached if v in needed}
