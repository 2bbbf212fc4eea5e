"""The forward graph once more, on a reference: what a rule compares a tensor with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from caveat_worker.engine.autodiff.backward import describe, has_body, read_by
from caveat_worker.engine.autodiff.builder import GraphBuilder
from caveat_worker.engine.base.errors import InvalidInput


def write_reference(
    builder: GraphBuilder, nodes: Sequence[ir.Node], references: Mapping[ir.Value, ir.Value]
) -> dict[ir.Value, ir.Value]:
    """Writes every node that depends on the keys again, on the values in their place; returns tensor → its reference.

    Nodes that no rule asks about are removed with all other unused ones. Raises `InvalidInput` for a node with a body.
    """
    found = dict(references)
    for node in nodes:
        if not any(x in found for x in read_by(node)):
            continue
        if has_body(node):
            raise InvalidInput(
                "no-reference",
                f"The model cannot be followed on a reference: {describe(node)} has a body of its own.",
                "Use integrated_gradients, which compares with a reference too.",
            )
        twin = ir.Node(
            node.domain,
            node.op_type,
            [x if x is None else found.get(x, x) for x in node.inputs],
            attributes=list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=builder.fresh(node.op_type),
        )
        for output, other in zip(node.outputs, twin.outputs, strict=True):
            other.name = builder.fresh("reference") if output.name else ""
            other.shape, other.type = output.shape, output.type
            found[output] = other
        builder.nodes.append(twin)
    return found
