"""Reverse-mode differentiation: from a scalar back to the layers, one rule for each node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import onnx
import onnx_ir as ir

from caveat_worker.engine.autodiff.builder import GraphBuilder, Tensor, UnknownShape, op, ops
from caveat_worker.engine.autodiff.rules import UNDIFFERENTIABLE, VJP, Rule, Table, UnsupportedOperator
from caveat_worker.engine.autodiff.shapes import sum_to, zeros_like
from caveat_worker.engine.onnx.values import shape_of_value


@dataclass(frozen=True)
class Blocked:
    """A value without a known gradient; the reason names node, operator and opset."""

    reason: str


Cotangent: TypeAlias = Tensor | Blocked


def backward(
    builder: GraphBuilder,
    nodes: Sequence[ir.Node],
    sources: Iterable[ir.Value],
    seeds: Mapping[ir.Value, Tensor],
    rules: Table = VJP,
) -> dict[ir.Value, Cotangent]:
    """The cotangents of the sources, given the cotangents of the seeds, each in its value's shape.

    `nodes` is the forward graph in topological order. Only the nodes between sources and seeds are differentiated;
    sources that no gradient reaches are left out.
    """
    sources = set(sources)
    active = reached_from(of_numbers(nodes), sources)
    arriving: dict[ir.Value, list[Cotangent]] = {value: [seed] for value, seed in seeds.items()}
    found: dict[ir.Value, Cotangent] = {}

    def collect(value: ir.Value) -> Cotangent | None:
        if value in arriving:
            found[value] = _sum(arriving.pop(value), value)
        return found.get(value)

    for node in reversed(nodes):
        cotangents = [collect(output) for output in node.outputs]
        sources_here = list(read_by(node)) if has_body(node) else node.inputs
        if not any(cotangents) or not any(_carries(x, active) for x in sources_here):
            continue
        for x, cotangent in zip(sources_here, _pull_back(builder, node, cotangents, active, rules), strict=False):
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


def of_numbers(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """The nodes without those that read nothing of a tensor but its sizes: what is made of those does not vary."""
    return [node for node in nodes if node.domain or node.op_type not in {"Shape", "Size"}]


def has_body(node: ir.Node) -> bool:
    """Whether the node has a subgraph, as If, Loop and Scan do."""
    return any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values())


def read_by(node: ir.Node) -> Iterable[ir.Value]:
    """The values that a node reads, each once, and those that its subgraphs read from the outer graph."""
    read = dict.fromkeys(x for x in node.inputs if x is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            body = attribute.as_graph()
            own = {v for inner in body.all_nodes() for v in inner.outputs} | set(body.inputs)
            inner_reads = (x for inner in body.all_nodes() for x in inner.inputs if x is not None)
            read |= dict.fromkeys(x for x in (*inner_reads, *body.outputs) if x not in own)
    return read


def describe(node: ir.Node) -> str:
    """The node for an error message: its name or its first output, its operator and the opset."""
    domain = node.domain or "ai.onnx"
    version = (node.graph.opset_imports if node.graph else {}).get(node.domain) or node.version or "?"
    name = node.name or next((output.name for output in node.outputs), "")
    return f"node '{name}' ({node.op_type}, {domain} opset {version})"


def _carries(x: ir.Value | None, active: set[ir.Value]) -> bool:
    """Whether a gradient may pass: through numbers, and through integers that numbers were rounded to."""
    if x is None or x not in active:
        return False
    maker = x.producer()
    rounded = maker is not None and maker.op_type in _ROUNDED and x is maker.outputs[0]
    return rounded or x.dtype is None or x.dtype.is_floating_point()


_ROUNDED = {"QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
"""Operators whose first output is integers that numbers were rounded to, or products of such."""


def _sum(parts: list[Cotangent], value: ir.Value) -> Cotangent:
    for part in parts:
        if isinstance(part, Blocked):
            return part
    total: Tensor = parts[0] if len(parts) == 1 else op.Sum(*parts)  # type: ignore[assignment]
    if total.array is None and shape_of_value(total.value) is None and total.value.producer() is not None:
        total.value.shape = value.shape
    return total


def _pull_back(
    builder: GraphBuilder, node: ir.Node, cotangents: list[Cotangent | None], active: set[ir.Value], rules: Table
) -> Sequence[Cotangent | None]:
    """One cotangent for each input of the node, by its rule."""
    many = len(list(read_by(node))) if has_body(node) else len(node.inputs)
    for cotangent in cotangents:
        if isinstance(cotangent, Blocked):
            return [cotangent] * many
    operator = (node.domain, node.op_type)
    if operator in UNDIFFERENTIABLE:
        return []
    if operator not in rules and node.op_type != "If":
        return [Blocked(f"The operator of {describe(node)} has no gradient rule.")] * many
    try:
        known = [c for c in cotangents if not isinstance(c, Blocked)]
        if node.op_type == "If":
            return _through_branches(builder, node, known, active, rules)
        return _apply(builder, rules[operator], node, known, active)
    except (UnsupportedOperator, UnknownShape) as error:
        return [Blocked(f"The gradient of {describe(node)} is not available: {error}.")] * many


def _through_branches(
    builder: GraphBuilder, node: ir.Node, cotangents: list[Tensor | None], active: set[ir.Value], rules: Table
) -> Sequence[Tensor | None]:
    """An If on the same condition, whose branches repeat the forward branches and then backpropagate through them."""
    condition, *captured = list(read_by(node))
    wanted = [x for x in captured if _carries(x, active)]
    branches = {}
    for name in ("then_branch", "else_branch"):
        branch = node.attributes[name].as_graph().clone(allow_outer_scope_values=True)
        results, nodes, body = list(branch.outputs), list(branch), builder.body()
        branch.remove(nodes)
        for value in (v for inner in nodes for v in inner.outputs):
            value.name = builder.fresh("again")
        body.nodes.extend(nodes)
        seeds = {y: g for y, g in zip(results, cotangents, strict=True) if g is not None}
        found = backward(body, nodes, wanted, seeds, rules)
        outputs = []
        for x in wanted:
            cotangent = found.get(x, op.Identity(zeros_like(Tensor(body, x))))
            if isinstance(cotangent, Blocked):
                raise UnsupportedOperator(cotangent.reason.rstrip("."))
            outputs.append(body.owned(cotangent))
        branches[name] = ir.Graph([], outputs, nodes=body.nodes, name=builder.fresh(name))
    tensors = dict(zip(wanted, ops.If(Tensor(builder, condition), outputs=len(wanted), **branches), strict=True))
    for x, tensor in tensors.items():
        tensor.value.type = x.type
    return [None, *(tensors.get(x) for x in captured)]


def _apply(
    builder: GraphBuilder, rule: Rule, node: ir.Node, cotangents: list[Tensor | None], active: set[ir.Value]
) -> Sequence[Tensor | None]:
    inputs = [builder.read(x, active=x is not None and x in active) for x in node.inputs]
    outputs = [builder.read(y) for y in node.outputs]
    if not rule.several and any(c is not None for c in cotangents[1:]):
        raise UnsupportedOperator("a gradient would have to pass through its second output")
    missing = [None] * (rule.several - len(outputs))
    g: Any = [*cotangents, *missing] if rule.several else cotangents[0]
    y: Any = [*outputs, *missing] if rule.several else outputs[0]
    results = rule(g, y, *inputs, **attributes_of(node, rule, builder.graph.opset_imports))
    if not rule.elementwise:
        return tuple(results)
    return tuple(
        r if r is None or x is None or not x.active else sum_to(r, x, y.shape)
        for r, x in zip(results, inputs, strict=False)
    )


def attributes_of(node: ir.Node, rule: Rule, opsets: Mapping[str, int]) -> dict[str, Any]:
    """The attributes that the rule takes: the node's own, or the schema's defaults.

    Raises `UnsupportedOperator` for an attribute of the node that the rule does not take.
    """
    given = {a.name: _text(a.value) for a in node.attributes.values()}
    unknown = [name for name in given if name not in rule.attributes and not rule.takes_any]
    if unknown:
        raise UnsupportedOperator(f"its rule does not know the attribute '{unknown[0]}'")
    return {
        k: v
        for k, v in (defaults_of(node.domain, node.op_type, opsets.get(node.domain, 1)) | given).items()
        if rule.takes_any or k in rule.attributes
    }


@cache
def defaults_of(domain: str, operator: str, version: int) -> dict[str, Any]:
    """The defaults of an operator's attributes, from its schema in onnx."""
    if not onnx.defs.has(operator, version, domain):
        return {}
    schema = onnx.defs.get_schema(operator, version, domain)
    defaults = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.type:
            defaults[name] = _text(onnx.helper.get_attribute_value(attribute.default_value))
    return defaults


def _text(value: Any) -> Any:
    """An attribute's value with bytes decoded as UTF-8."""
    if isinstance(value, list | tuple):
        return [_text(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value
