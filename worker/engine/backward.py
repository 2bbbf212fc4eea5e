"""The walk from a scalar back to the layers: one rule a node, and the sums between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx
import onnx_ir as ir

from .rules import UNDIFFERENTIABLE, VJP, Refusal, Rule
from .rules.table import Operator
from .shapes import sum_to
from .tape import Tape, Tensor, Unknown, op, shape_of_value


@dataclass(frozen=True)
class Blocked:
    """Why no gradient is known for a value; the reason names node, operator and opset."""

    reason: str


Cotangent: TypeAlias = Tensor | Blocked
Table: TypeAlias = Mapping[Operator, Rule]


def backward(
    tape: Tape,
    nodes: Sequence[ir.Node],
    sources: Iterable[ir.Value],
    seeds: Mapping[ir.Value, Tensor],
    rules: Table = VJP,
) -> dict[ir.Value, Cotangent]:
    """The cotangents of the sources, given those of the seeds; sources that no gradient reaches are left out.

    `nodes` is the forward graph in its order. Only the nodes between sources and seeds do any work.
    """
    sources = set(sources)
    active = reached_from(nodes, sources)
    arriving: dict[ir.Value, list[Cotangent]] = {value: [seed] for value, seed in seeds.items()}
    found: dict[ir.Value, Cotangent] = {}

    def collect(value: ir.Value) -> Cotangent | None:
        if value in arriving:
            found[value] = _sum(arriving.pop(value), value)
        return found.get(value)

    for node in reversed(nodes):
        cotangents = [collect(output) for output in node.outputs]
        if not any(cotangents) or not any(_carries(x, active) for x in node.inputs):
            continue
        for x, cotangent in zip(node.inputs, _pull_back(tape, node, cotangents, active, rules), strict=False):
            if x is not None and cotangent is not None and _carries(x, active):
                arriving.setdefault(x, []).append(cotangent)
    return {value: cotangent for value in sources if (cotangent := collect(value)) is not None}


def reached_from(nodes: Sequence[ir.Node], sources: Iterable[ir.Value]) -> set[ir.Value]:
    """The values that depend on the sources."""
    reached = set(sources)
    for node in nodes:
        if any(x in reached for x in read_by(node)):
            reached.update(node.outputs)
    return reached


def read_by(node: ir.Node) -> Iterable[ir.Value]:
    """What a node reads, in its bodies too."""
    yield from (x for x in node.inputs if x is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph().all_nodes():
                yield from (x for x in inner.inputs if x is not None)
            yield from attribute.as_graph().outputs


def describe(node: ir.Node) -> str:
    """The node as a person can find it: name or first output, operator, opset."""
    domain = node.domain or "ai.onnx"
    version = (node.graph.opset_imports if node.graph else {}).get(node.domain) or node.version or "?"
    return f"node '{node.name or node.outputs[0].name}' ({node.op_type}, {domain} opset {version})"


def _carries(x: ir.Value | None, active: set[ir.Value]) -> bool:
    return x is not None and x in active and (x.dtype is None or x.dtype.is_floating_point())


def _sum(parts: list[Cotangent], value: ir.Value) -> Cotangent:
    for part in parts:
        if isinstance(part, Blocked):
            return part
    total: Tensor = parts[0] if len(parts) == 1 else op.Sum(*parts)  # type: ignore[assignment]
    if total.array is None and shape_of_value(total.value) is None and total.value.producer() is not None:
        total.value.shape = value.shape
    return total


def _pull_back(
    tape: Tape, node: ir.Node, cotangents: list[Cotangent | None], active: set[ir.Value], rules: Table
) -> Sequence[Cotangent | None]:
    """One cotangent per input of the node, by its rule."""
    for cotangent in cotangents:
        if isinstance(cotangent, Blocked):
            return [cotangent] * len(node.inputs)
    operator = (node.domain, node.op_type)
    if operator in UNDIFFERENTIABLE:
        return []
    if operator not in rules:
        return [Blocked(f"The operator of {describe(node)} has no gradient rule.")] * len(node.inputs)
    try:
        return _apply(tape, rules[operator], node, [c for c in cotangents if not isinstance(c, Blocked)], active)
    except (Refusal, Unknown) as why:
        return [Blocked(f"The gradient of {describe(node)} is not available: {why}.")] * len(node.inputs)


def _apply(
    tape: Tape, rule: Rule, node: ir.Node, cotangents: list[Tensor | None], active: set[ir.Value]
) -> Sequence[Tensor | None]:
    inputs = [tape.read(x, active=x is not None and x in active) for x in node.inputs]
    outputs = [tape.read(y) for y in node.outputs]
    if not rule.several and any(c is not None for c in cotangents[1:]):
        raise Refusal("a gradient would have to pass through its second output")
    missing = [None] * (rule.several - len(outputs))
    g: Any = [*cotangents, *missing] if rule.several else cotangents[0]
    y: Any = [*outputs, *missing] if rule.several else outputs[0]
    results = rule.function(g, y, *inputs, **_attributes(node, rule))
    if not rule.elementwise:
        return tuple(results)
    return tuple(
        r if r is None or x is None or not x.active else sum_to(r, x, y.shape)
        for r, x in zip(results, inputs, strict=False)
    )


def _attributes(node: ir.Node, rule: Rule) -> dict[str, Any]:
    """What the node says, over the schema's defaults, for the attributes that the rule takes."""
    given = {a.name: _text(a.value) for a in node.attributes.values()}
    strange = [name for name in given if name not in rule.attributes]
    if strange:
        raise Refusal(f"its rule does not know the attribute '{strange[0]}'")
    return {k: v for k, v in (_defaults(node) | given).items() if k in rule.attributes}


def _defaults(node: ir.Node) -> dict[str, Any]:
    version = (node.graph.opset_imports if node.graph else {}).get(node.domain) or 1
    if not onnx.defs.has(node.op_type, node.domain):
        return {}
    schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    defaults = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.type:
            defaults[name] = _text(onnx.helper.get_attribute_value(attribute.default_value))
    return defaults


def _text(value: Any) -> Any:
    """An attribute's value with its bytes read as text."""
    if isinstance(value, list | tuple):
        return [_text(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value
