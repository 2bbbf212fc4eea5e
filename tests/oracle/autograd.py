"""An interpreter of ONNX graphs in torch: the same graph, with another's autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F

from caveat_worker.engine.autodiff.backward import _text, defaults_of

Tensor = torch.Tensor


def weights_of(model: ir.Model, dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's constants as torch tensors; loaded once, so that a timed run does not copy them again."""
    weights = {}
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            constant = torch.from_numpy(np.array(value.const_value.numpy()))
            weights[name] = constant.to(dtype) if constant.is_floating_point() else constant
    return weights


def run(
    model: ir.Model, feeds: Mapping[str, Tensor], tensors: Sequence[str], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The named tensors of a normalised model, connected for autograd."""
    values: dict[str, Tensor | None] = {"": None, **feeds, **weights}
    for node in model.graph:
        if all(name in values for name in tensors):
            break
        if not all((output.name or "") in values for output in node.outputs):
            values.update(_evaluated(model, node, values))
    return {name: values[name] for name in tensors if values[name] is not None}  # type: ignore[misc]


def decoded(model: ir.Model, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights, and what a model makes of them alone, as numbers of int8 in float; `run` does not make that again."""
    found: dict[str, Any] = {"": None, **weights}
    for node in model.graph:
        if node.inputs and all(x is None or x.name in found for x in node.inputs):
            found.update(_evaluated(model, node, found))
    return {name: value for name, value in found.items() if value is not None}


def _evaluated(model: ir.Model, node: ir.Node, values: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of one node by name."""
    inputs = [None if x is None else values[x.name or ""] for x in node.inputs]
    version = model.graph.opset_imports.get(node.domain, 18)
    attributes = defaults_of(node.domain, node.op_type, version) | {
        a.name: _text(a.value) for a in node.attributes.values()
    }
    results = OPERATORS[node.op_type](*inputs, **attributes)
    if isinstance(results, Tensor):
        results = (results,)
    return {output.name or "": r for output, r in zip(node.outputs, results, strict=False)}


def gradients(
    model: ir.Model, feeds: Mapping[str, np.ndarray[Any, Any]], tensors: Sequence[str], logits: str, index: int,
    dtype: torch.dtype = torch.float64, weights: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """∂h_k/∂a for each of the tensors, by torch's autograd; `weights` are those of `weights_of`, if at hand."""
    weights = weights_of(model, dtype) if weights is None else weights
    given = {k: torch.from_numpy(v).to(dtype).requires_grad_() for k, v in feeds.items()}
    found = run(model, given, [*tensors, logits], weights)
    wanted = [found[name] for name in tensors]
    return dict(zip(tensors, torch.autograd.grad(found[logits][:, index].sum(), wanted), strict=True))


def _padded(x: Tensor, pads: Sequence[int] | None, value: float = 0.0) -> Tensor:
    if not pads or not any(pads):
        return x
    half = len(pads) // 2
    widths = [p for i in reversed(range(half)) for p in (pads[i], pads[i + half])]
    return F.pad(x, widths, value=value)


def _same(sizes: Any, kernel: Any, strides: Any, dilations: Any, auto_pad: str) -> list[int]:
    """The pads by which ⌈size / stride⌉ windows fit, the odd one at the end for SAME_UPPER."""
    whole = [
        max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    less, more = [p // 2 for p in whole], [p - p // 2 for p in whole]
    return [*less, *more] if auto_pad == "SAME_UPPER" else [*more, *less]


def conv(x: Tensor, w: Tensor, b: Tensor | None = None, *, auto_pad: str, dilations: Any = None, group: int,
         kernel_shape: Any = None, pads: Any = None, strides: Any = None) -> Tensor:  # fmt: skip
    rank = w.ndim - 2
    if auto_pad.startswith("SAME"):
        pads = _same(x.shape[2:], w.shape[2:], strides or [1] * rank, dilations or [1] * rank, auto_pad)
    half = len(pads) // 2 if pads else 0
    inside = list(pads[:half]) if pads and list(pads[:half]) == list(pads[half:]) else None
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
    x = x if inside is not None else _padded(x, pads)
    return function(
        x, w, b, tuple(strides or [1] * rank), tuple(inside or [0] * rank), tuple(dilations or [1] * rank), group
    )


def max_pool(x: Tensor, *, auto_pad: str, ceil_mode: int, dilations: Any = None, kernel_shape: Any, pads: Any = None,
             storage_order: int, strides: Any = None) -> Tensor:  # fmt: skip
    strides = strides or [1] * len(kernel_shape)
    half = len(kernel_shape)
    if pads and list(pads[:half]) == list(pads[half:]):
        return F.max_pool2d(x, tuple(kernel_shape), tuple(strides), tuple(pads[:half]), 1, bool(ceil_mode))
    x = _padded(x, pads, float("-inf"))
    return F.max_pool2d(x, tuple(kernel_shape), tuple(strides), 0, 1, bool(ceil_mode))


def average_pool(x: Tensor, *, auto_pad: str, ceil_mode: int, count_include_pad: int, dilations: Any = None,
                 kernel_shape: Any, pads: Any = None, strides: Any = None) -> Tensor:  # fmt: skip
    strides = strides or [1] * len(kernel_shape)
    each = torch.ones(x.shape[1], 1, *kernel_shape, dtype=x.dtype)
    total = F.conv2d(_padded(x, pads), each, stride=tuple(strides), groups=x.shape[1])
    inside = _padded(torch.ones_like(x[:1, :1]), pads, 1.0 if count_include_pad else 0.0)
    assert not ceil_mode
    return total / F.conv2d(inside, each[:1], stride=tuple(strides))


def batch_normalization(
    x: Tensor, scale: Tensor, b: Tensor, mean: Tensor, var: Tensor, *, epsilon: float, **_: Any
) -> Tensor:
    return F.batch_norm(x, mean, var, scale, b, False, 0.0, epsilon)


def lrn(x: Tensor, *, alpha: float, beta: float, bias: float, size: int) -> Tensor:
    return F.local_response_norm(x, size, alpha, beta, bias)


def gemm(a: Tensor, b: Tensor, c: Any = None, *, alpha: float, beta: float, transA: int, transB: int) -> Tensor:
    y = alpha * (a.T if transA else a) @ (b.T if transB else b)
    return y if c is None else y + beta * c


def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return torch.clamp(x, low, high)


def reshape(x: Tensor, shape: Tensor, *, allowzero: int) -> Tensor:
    return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(shape.tolist())])


def slice_(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    chosen = range(starts.numel()) if axes is None else axes.reshape(-1).tolist()
    by = torch.ones_like(starts) if steps is None else steps
    for axis, a, b, step in zip(chosen, *(one.reshape(-1).tolist() for one in (starts, ends, by)), strict=True):
        if step > 0:
            x = x[(*[slice(None)] * (axis % x.ndim), slice(a, b, step))]
        else:
            x = x.index_select(axis, torch.arange(*slice(a, b, step).indices(x.shape[axis])))
    return x


def layer_normalization(x: Tensor, scale: Tensor, b: Any = None, *, axis: int, epsilon: float, **_: Any) -> Tensor:
    return F.layer_norm(x, x.shape[axis:], scale, b, epsilon)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "And": torch.logical_and,
    "Add": torch.add,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Clip": clip,
    "Concat": lambda *xs, axis: torch.cat(xs, axis),
    "Conv": conv,
    "Div": torch.div,
    "Dropout": lambda x, *_, **__: x,
    "Elu": lambda x, alpha: F.elu(x, alpha),
    "Expand": lambda x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(shape.tolist()))),
    "Erf": torch.erf,
    "Cast": lambda x, to, **_: x,
    "Flatten": lambda x, axis: x.flatten(axis) if axis == 1 else x.reshape(int(np.prod(x.shape[:axis])), -1),
    "Gather": lambda x, i, axis: torch.index_select(x, axis, i.reshape(-1)).reshape(
        *x.shape[:axis], *i.shape, *x.shape[axis % x.ndim + 1 :]
    ),
    "GatherND": lambda x, i, batch_dims: x[i.unbind(-1)],
    "Gelu": lambda x, approximate: F.gelu(x, approximate=approximate),
    "Gemm": gemm,
    "GlobalAveragePool": lambda x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(dim=tuple(range(2, x.ndim)), keepdim=True),
    "GreaterOrEqual": torch.ge,
    "HardSigmoid": lambda x, alpha, beta: torch.clamp(alpha * x + beta, 0, 1),
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "IsNaN": lambda x, **_: torch.isnan(x),
    "LRN": lrn,
    "LayerNormalization": layer_normalization,
    "LeakyRelu": lambda x, alpha: F.leaky_relu(x, alpha),
    "MatMul": torch.matmul,
    "Max": lambda *xs: reduce(torch.maximum, xs),
    "MaxPool": max_pool,
    "Min": lambda *xs: reduce(torch.minimum, xs),
    "Mul": torch.mul,
    "Pad": lambda x, pads, fill=None, axes=None, mode="constant": _padded(x, pads.tolist()),
    "Pow": torch.pow,
    "Range": lambda start, limit, delta: torch.arange(start.item(), limit.item(), delta.item()),
    "ReduceMax": lambda x, axes, keepdims, **_: x.amax(dim=tuple(axes.tolist()), keepdim=bool(keepdims)),
    "ReduceMean": lambda x, axes, keepdims, **_: x.mean(dim=tuple(axes.tolist()), keepdim=bool(keepdims)),
    "Relu": torch.relu,
    "Reshape": reshape,
    "Shape": lambda x, start=0, end=None: torch.tensor(x.shape)[slice(start, end)],
    "Sigmoid": torch.sigmoid,
    "Slice": slice_,
    "Softmax": lambda x, axis: torch.softmax(x, axis),
    "Split": lambda x, sizes=None, axis=0, num_outputs=None: torch.split(
        x, sizes.tolist() if sizes is not None else x.shape[axis] // num_outputs, axis
    ),
    "Sqrt": torch.sqrt,
    "Squeeze": lambda x, axes=None: x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist())),
    "Sub": torch.sub,
    "Sum": lambda *xs: sum(xs),
    "Tanh": torch.tanh,
    "Transpose": lambda x, perm: x.permute(perm),
    "Unsqueeze": lambda x, axes: (
        x[(None,) * len(axes)] if axes.tolist() == list(range(len(axes))) else _unsqueezed(x, axes)
    ),
    "Where": torch.where,
}


def _unsqueezed(x: Tensor, axes: Tensor) -> Tensor:
    for axis in sorted(a % (x.ndim + len(axes)) for a in axes.tolist()):
        x = x.unsqueeze(axis)
    return x
