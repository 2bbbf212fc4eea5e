"""Makes a fixed batch size symbolic, so that the model takes any number of examples."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.equivalence import batches_join
from caveat_worker.engine.onnx.graph import forget_shapes, infer_shapes
from caveat_worker.engine.onnx.values import shape_of_value

_BATCH = "batch"


def free_batch_axis(model: ir.Model, warnings: list[str]) -> bool:
    """Makes the leading dimension of the inputs symbolic, in place; returns whether it is.

    A fixed batch stays, with a warning, unless two batches on noise give the same outputs one by one and joined.
    """
    inputs = [v for v in model.graph.inputs if not v.is_initializer()]
    shapes = [shape_of_value(v) for v in inputs]
    fixed = {shape[0] for shape in shapes if shape and isinstance(shape[0], int)}
    if not fixed:
        return bool(shapes)
    if len(fixed) > 1 or any(not shape or shape[0] not in fixed for shape in shapes):
        return False
    (size,) = fixed
    assert isinstance(size, int)
    free = model.clone()
    for value in free.graph.inputs:
        if not value.is_initializer() and value.shape is not None:
            value.shape = ir.Shape([_BATCH, *value.shape[1:]])
    _unfix_reshapes(free, size)
    forget_shapes(free)
    infer_shapes(free)
    if batches_join(model, free):
        model.graph = free.graph
        return True
    warnings.append(f"The model works on batches of exactly {size}; examples are run in such batches.")
    return False


def _unfix_reshapes(model: ir.Model, size: int) -> None:
    """Rewrites constant Reshape targets that begin with the batch size, in place, to infer it from their input."""
    for node in list(model.graph.all_nodes()):
        if node.op_type == "Reshape" and node.domain == "" and len(node.inputs) == 2:
            shape = node.inputs[1]
            target = shape.const_value.numpy() if shape is not None and shape.const_value is not None else None
            if target is not None and target.size > 1 and target[0] == size:
                inferred = 0 if (target == -1).any() else -1
                new = ir.Value(
                    name=f"{node.name}/any_batch",
                    shape=ir.Shape(target.shape),
                    type=ir.TensorType(ir.DataType.INT64),
                    const_value=ir.tensor(np.asarray([inferred, *target[1:]], np.int64), name=f"{node.name}/any_batch"),
                )
                model.graph.register_initializer(new)
                node.replace_input_with(1, new)
