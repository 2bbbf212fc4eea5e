"""The oracles of the rules: finite differences in float64, and the runtimes against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import erf
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_scan import Scan as ReferenceScan

from caveat_worker.engine.autodiff.backward import Blocked, backward
from caveat_worker.engine.autodiff.builder import GraphBuilder, Tensor
from caveat_worker.engine.autodiff.load import prepare
from caveat_worker.engine.autodiff.lowering import lower
from caveat_worker.engine.autodiff.rules import LOWERED
from caveat_worker.engine.onnx.graph import Graph, prune

Array = NDArray[Any]
Shapes = Literal["static", "batch", "dynamic"]


@dataclass(frozen=True)
class Row:
    """One use of an operator: its inputs, its attributes, and the runtime that is the reference for it."""

    op: str
    inputs: Sequence[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    outputs: int = 1
    hidden: int = 0  # further outputs of the node, which the graph does not yield
    through: tuple[int, ...] | None = None  # the inputs that are differentiated: by default all of float type
    runtime: Literal["reference", "onnxruntime"] = "reference"
    shapes: tuple[Shapes, ...] = ("static", "batch", "dynamic")
    compare: bool = True  # with ONNX Runtime in float32
    opset: int = 22
    dtype: str = "float64"
    tolerance: float = 2e-6
    label: str = ""

    @property
    def operator(self) -> tuple[str, str]:
        return self.domain, self.op

    @property
    def differentiated(self) -> tuple[int, ...]:
        if self.through is not None:
            return self.through
        return tuple(i for i, x in enumerate(self.inputs) if x is not None and x.dtype.kind == "f")

    def __str__(self) -> str:
        sizes = ";".join("-" if x is None else "x".join(map(str, x.shape)) for x in self.inputs)
        attributes = ",".join(f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.label or self.op}({sizes})[{attributes}]"


class Erf(OpRun):
    """In float64; onnx's own computes in float32."""

    def _run(self, x):  # type: ignore[no-untyped-def]
        return (np.vectorize(erf, otypes=[x.dtype])(x),)


class Gelu(OpRun):
    """With an error function in float64."""

    def _run(self, x, approximate=None):  # type: ignore[no-untyped-def]
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),)
        return (0.5 * x * (1 + np.vectorize(erf, otypes=[x.dtype])(x / np.sqrt(2))),)


class LRN(OpRun):
    """Over all channels; onnx's own stops at as many as there are examples."""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):  # type: ignore[no-untyped-def]
        squares = np.zeros_like(x)
        for c in range(x.shape[1]):
            near = slice(max(0, c - (size - 1) // 2), c + size // 2 + 1)
            squares[:, c] = (x[:, near] ** 2).sum(axis=1)
        return (x / (bias + alpha / size * squares) ** beta,)


class LpNormalization(OpRun):
    """With magnitudes; onnx's own adds up signed numbers."""

    def _run(self, x, axis=None, p=None):  # type: ignore[no-untyped-def]
        return (x / (np.abs(x) ** p).sum(axis=axis, keepdims=True) ** (1 / p),)


class GlobalLpPool(OpRun):
    """onnx has none."""

    def _run(self, x, p=None):  # type: ignore[no-untyped-def]
        return ((np.abs(x) ** p).sum(axis=tuple(range(2, x.ndim)), keepdims=True) ** (1 / p),)


class GridSample(OpRun):
    """One sample at a time in float64; onnx's own computes places in float32."""

    def _run(self, x, grid, align_corners=None, mode=None, padding_mode=None):  # type: ignore[no-untyped-def]
        last = np.array(x.shape[2:][::-1]) - 1
        y = np.zeros((*x.shape[:2], *grid.shape[1:3]), x.dtype)
        for n, i, j in np.ndindex(*grid.shape[:3]):
            at = (grid[n, i, j] + 1) * (last if align_corners else last + 1) / 2 - (0 if align_corners else 0.5)
            at = np.clip(at, 0, last) if padding_mode == "border" else at
            low = np.round(at) if mode == "nearest" else np.floor(at)
            for end in [(0, 0)] if mode == "nearest" else np.ndindex(2, 2):
                place, part = low + end, np.where(end, at - low, low + 1 - at)
                if (place >= 0).all() and (place <= last).all():
                    weight = 1 if mode == "nearest" else part.prod()
                    y[n, :, i, j] += weight * x[n, :, int(place[1]), int(place[0])]
        return (y,)


class Mean(OpRun):
    """With broadcasting; onnx's own adds in place."""

    def _run(self, *xs):  # type: ignore[no-untyped-def]
        return (sum(xs) / len(xs),)


class MeanVarianceNormalization(OpRun):
    """In the type of its input; the function in the standard has float32 constants."""

    def _run(self, x, axes=None):  # type: ignore[no-untyped-def]
        centred = x - x.mean(axis=tuple(axes), keepdims=True)
        return (centred / (np.sqrt((centred**2).mean(axis=tuple(axes), keepdims=True)) + 1e-9),)


class Pad(OpRun):
    """With negative paddings, which cut; onnx's own has none."""

    def _run(self, x, pads, fill=None, axes=None, mode=None):  # type: ignore[no-untyped-def]
        axes = np.arange(x.ndim) if axes is None else axes
        widths = np.zeros((x.ndim, 2), np.int64)
        widths[axes, 0], widths[axes, 1] = pads[: len(axes)], pads[len(axes) :]
        more = {"constant_values": 0 if fill is None else fill} if mode == "constant" else {}
        padded = np.pad(x, np.maximum(widths, 0), mode=mode, **more)
        cut = np.maximum(-widths, 0)
        kept = tuple(slice(a, n - b) for (a, b), n in zip(cut, padded.shape, strict=True))
        return (padded[kept].astype(x.dtype),)


class ConvTranspose(OpRun):
    """One number at a time, and for groups, on which onnx's own raises."""

    def _run(  # type: ignore[no-untyped-def]
        self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None,
        output_padding=None, output_shape=None, pads=None, strides=None,
    ):  # fmt: skip
        rank = w.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        extra, pads = output_padding or [0] * rank, list(pads or [0] * 2 * rank)
        reach = [d * (k - 1) + 1 for d, k in zip(dilations, w.shape[2:], strict=True)]
        full = [s * (n - 1) + o + r for s, n, o, r in zip(strides, x.shape[2:], extra, reach, strict=True)]
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            output_shape = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        if output_shape:
            total = [max(f - o, 0) for f, o in zip(full, output_shape, strict=True)]
            less, more = [t // 2 for t in total], [t - t // 2 for t in total]
            pads = less + more if auto_pad == "SAME_UPPER" else more + less
        each = w.shape[1]
        y = np.zeros((x.shape[0], each * group, *full), x.dtype)
        for c in range(x.shape[1]):
            first = c // (x.shape[1] // group) * each
            for at in np.ndindex(*x.shape[2:]):
                for k in np.ndindex(*w.shape[2:]):
                    to = tuple(p * s + q * d for p, s, q, d in zip(at, strides, k, dilations, strict=True))
                    y[(slice(None), slice(first, first + each), *to)] += (
                        x[(slice(None), c, *at)][:, None] * w[(c, slice(None), *k)]
                    )
        kept = tuple(slice(pads[i], full[i] - pads[i + rank]) for i in range(rank))
        y = y[(slice(None), slice(None), *kept)]
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


class Scan(ReferenceScan):
    """In both directions; onnx's own goes forwards alone."""

    def __init__(self, node: onnx.NodeProto, run_params: dict[str, Any]) -> None:
        forwards = onnx.NodeProto()
        forwards.CopyFrom(node)
        given = {a.name: list(a.ints) for a in node.attribute if a.name.endswith("directions")}
        kept = [a for a in forwards.attribute if a.name not in given]
        del forwards.attribute[:]
        forwards.attribute.extend(kept)
        super().__init__(forwards, run_params)
        self.turn_in, self.turn_out = given.get("scan_input_directions"), given.get("scan_output_directions")

    def _run(self, *args, num_scan_inputs=None, **more):  # type: ignore[no-untyped-def]
        states = len(args) - num_scan_inputs
        back = [*[0] * states, *(self.turn_in or [0] * num_scan_inputs)]
        turned = [x[::-1] if b else x for x, b in zip(args, back, strict=True)]
        results = super()._run(*turned, num_scan_inputs=num_scan_inputs, **more)
        out = [*[0] * states, *(self.turn_out or [0] * (len(results) - states))]
        return tuple(y[::-1] if b else y for y, b in zip(results, out, strict=True))


class _Recurrent(OpRun):
    """Step by step, in every direction."""

    def _run(self, x, w, r, b=None, lengths=None, h0=None, c0=None, p=None, **how):  # type: ignore[no-untyped-def]
        steps, n, _ = x.shape
        hidden = r.shape[2]
        y = np.zeros((steps, len(w), n, hidden), x.dtype)
        last = []
        for d in range(len(w)):
            h = np.zeros((n, hidden), x.dtype) if h0 is None else h0[d]
            c = np.zeros((n, hidden), x.dtype) if c0 is None else c0[d]
            wb, rb = np.split(np.zeros(2 * w.shape[1]) if b is None else b[d], 2)
            backwards = how["direction"] == "reverse" or d == 1
            for t in range(steps)[:: -1 if backwards else 1]:
                h, c = self.step(x[t] @ w[d].T + wb, h, c, r[d], rb, how)
                y[t, d] = h
            last.append((h, c))
        return tuple([y, *(np.stack(part) for part in zip(*last, strict=True))][: self.results])


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


class RNN(_Recurrent):
    results = 2

    def step(self, z, h, c, r, rb, how):  # type: ignore[no-untyped-def]
        z = z + h @ r.T + rb
        return (np.maximum(z, 0) if how["activations"][0] == "Relu" else np.tanh(z)), c


class LSTM(_Recurrent):
    results = 3

    def step(self, z, h, c, r, rb, how):  # type: ignore[no-untyped-def]
        i, o, f, u = np.split(z + h @ r.T + rb, 4, axis=1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(u)
        return _sigmoid(o) * np.tanh(c), c


class GRU(_Recurrent):
    results = 2

    def step(self, x, h, c, r, rb, how):  # type: ignore[no-untyped-def]
        (xz, xs, xu), (rz, rs, ru), (bz, bs, bu) = np.split(x, 3, axis=1), np.split(r, 3), np.split(rb, 3)
        z, s = _sigmoid(xz + h @ rz.T + bz), _sigmoid(xs + h @ rs.T + bs)
        u = np.tanh(xu + s * (h @ ru.T + bu) if how["linear_before_reset"] else xu + (s * h) @ ru.T + bu)
        return (1 - z) * u + z * h, c


OWN_OPERATORS = [
    GRU,
    LSTM,
    RNN,
    Scan,
    ConvTranspose,
    Erf,
    Gelu,
    GlobalLpPool,
    GridSample,
    LRN,
    LpNormalization,
    Mean,
    MeanVarianceNormalization,
    Pad,
]


class NotDifferentiated(Exception):
    """The engine has no gradient for this use; the message is the reason."""


def single_node(row: Row, dtype: Any, shapes: Shapes) -> onnx.ModelProto:
    """A model of one node, whose differentiated inputs are the graph's inputs and whose others are constants."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(row.inputs)]
    graph_inputs, constants = [], []
    for i, x in enumerate(row.inputs):
        if x is None:
            continue
        array = x.astype(dtype) if x.dtype.kind == "f" and x.dtype == np.float64 else x
        if i in row.differentiated:
            shape: list[int | str] = list(array.shape)
            if shapes == "batch" and shape:
                shape[0] = f"n{array.shape[0]}"
            if shapes == "dynamic":
                shape = [f"x{i}_{axis}" for axis in range(len(shape))]
            graph_inputs.append(
                helper.make_tensor_value_info(names[i], helper.np_dtype_to_tensor_dtype(array.dtype), shape)
            )
        else:
            constants.append(numpy_helper.from_array(array, names[i]))
    results = [f"y{i}" for i in range(row.outputs)]
    more = [f"hidden{i}" for i in range(row.hidden)]
    node = helper.make_node(row.op, names, results + more, name=row.op, domain=row.domain, **row.attributes)
    infos = [onnx.ValueInfoProto(name=name) for name in results]
    graph = helper.make_graph([node], "single", graph_inputs, infos, constants)
    opsets = [helper.make_opsetid("", row.opset)]
    if row.domain:
        opsets.append(helper.make_opsetid(row.domain, 1 if row.domain != "ai.onnx.ml" else 3))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    if "ceil_mode" in row.attributes:  # inference before opset 22 counts windows that runtimes drop
        for output in typed.graph.output:
            output.type.tensor_type.ClearField("shape")
    for output in typed.graph.output:
        if not output.type.tensor_type.elem_type:
            output.type.CopyFrom(helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None))
    return typed


def lowered(model: onnx.ModelProto) -> ir.Model:
    """The model as rules see it: with functions inlined, and with operators that are formulas replaced."""
    return lower(prepare(model))


def pulled_back(model: onnx.ModelProto) -> Graph:
    """The graph from inputs and cotangents `g0`, `g1`, ... of the outputs to the inputs' cotangents `d/x0`, ..."""
    normal = lowered(model)
    graph = normal.graph
    nodes = list(graph)
    builder = GraphBuilder(graph)
    seeds = {}
    for i, output in enumerate(graph.outputs):
        if output.dtype is not None and output.dtype.is_floating_point():
            seed = ir.Value(name=f"g{i}", shape=output.shape, type=ir.TensorType(output.dtype))
            graph.inputs.append(seed)
            seeds[output] = Tensor(builder, seed)
    sources = [v for v in graph.inputs if v not in {t.value for t in seeds.values()}]
    cotangents = backward(builder, nodes, sources, seeds)
    named = []
    for source in sources:
        cotangent = cotangents.get(source)
        if isinstance(cotangent, Blocked):
            raise NotDifferentiated(cotangent.reason)
        if cotangent is not None:
            named.append(builder.named(cotangent, f"d/{source.name}"))
            named[-1].shape = source.shape
    graph.extend(builder.nodes)
    return Graph(prune(normal, named))


def run(runtime: str, model: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    """All outputs by name."""
    if runtime == "reference":
        evaluator = ReferenceEvaluator(model, new_ops=OWN_OPERATORS)
        results = evaluator.run(None, {k: v for k, v in feeds.items() if k in evaluator.input_names})
        return dict(zip(evaluator.output_names, results, strict=True))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}
    return dict(zip(names, session.run(names, {k: v for k, v in feeds.items() if k in wanted}), strict=True))


def feeds_of(row: Row, dtype: Any) -> dict[str, Array]:
    inputs = {i: row.inputs[i] for i in row.differentiated}
    return {f"x{i}": x.astype(dtype) for i, x in inputs.items() if x is not None}


def cotangents_of(outputs: dict[str, Array], rng: np.random.Generator) -> dict[str, Array]:
    return {
        f"g{i}": rng.standard_normal(np.shape(y)).astype(y.dtype)
        for i, y in enumerate(outputs.values())
        if np.asarray(y).dtype.kind == "f"
    }


def check_against_differences(row: Row, shapes: Shapes) -> None:
    """⟨g, f(x + εu) - f(x - εu)⟩ / 2ε = ⟨vjp(g), u⟩ in float64, for random g and u, input by input."""
    rng = np.random.default_rng(7)
    model = normal(row, np.dtype(row.dtype), shapes)
    backward_graph = pulled_back(model).to_proto()
    feeds = feeds_of(row, np.dtype(row.dtype))
    g = cotangents_of(run(row.runtime, model, feeds), rng)
    gradients = run(row.runtime, backward_graph, {**feeds, **g})
    for name, x in feeds.items():
        gradient = gradients.get(f"d/{name}", np.zeros_like(x))
        assert gradient.shape == x.shape, f"{name}: {gradient.shape} for {x.shape}"
        assert gradient.dtype == x.dtype, f"{name}: {gradient.dtype} for {x.dtype}"
        for _ in range(2):
            u = rng.standard_normal(x.shape).astype(x.dtype)
            step = 1e-6 if row.dtype == "float64" else 1e-2
            above = run(row.runtime, model, {**feeds, name: x + x.dtype.type(step) * u})
            below = run(row.runtime, model, {**feeds, name: x - x.dtype.type(step) * u})
            floats = [y for y in above if np.asarray(above[y]).dtype.kind == "f"]
            measured = sum(float(np.sum(g[f"g{y[1:]}"] * (above[y] - below[y]))) / (2 * step) for y in floats)
            expected = float(np.sum(gradient * u))
            size = float(np.abs(gradient).sum()) / np.sqrt(max(gradient.size, 1)) + abs(measured) + 1e-3
            tolerance = 10 * row.tolerance if row.dtype == "float64" else 5e-3
            assert abs(measured - expected) <= tolerance * size, (name, measured, expected)


def check_adjoint(row: Row, shapes: Shapes) -> bool:
    """⟨g, f(x + v) - f(x - v)⟩ / 2 = ⟨vjp(g), v⟩ for an operator linear in its first input, in ONNX Runtime, float32.

    False where the runtime does not take this use of the operator.
    """
    rng = np.random.default_rng(11)
    model = single_node(row, np.float32, shapes)
    x = np.asarray(row.inputs[0], np.float32)
    v = rng.standard_normal(x.shape).astype(np.float32)
    try:
        above, below = (
            run("onnxruntime", model, {"x0": x + sign * v})["y0"] for sign in (np.float32(1), np.float32(-1))
        )
    except Exception:  # ONNX Runtime's exceptions share no base class
        return False
    if not above.size:
        return False
    g = rng.standard_normal(above.shape).astype(np.float32)
    gradient = run("onnxruntime", pulled_back(model).to_proto(), {"x0": x, "g0": g})["d/x0"]
    assert gradient.shape == x.shape
    measured = float(np.sum(g.astype(np.float64) * (above.astype(np.float64) - below))) / 2
    expected = float(np.sum(gradient.astype(np.float64) * v))
    size = float(np.linalg.norm(gradient) * np.linalg.norm(v) + np.linalg.norm(g) * np.linalg.norm(above)) + 1e-3
    assert abs(measured - expected) <= 1e-5 * size, (measured, expected)
    return True


def normal(row: Row, dtype: Any, shapes: Shapes) -> onnx.ModelProto:
    """The row's model, with formulas in place of operators that the runtimes lack."""
    model = single_node(row, dtype, shapes)
    return ir.to_proto(lowered(model)) if row.operator in LOWERED else model


def check_formula(row: Row) -> None:
    """Asserts that an operator's formula agrees with ONNX Runtime's own kernel."""
    model = single_node(row, np.float32, "static")
    feeds = feeds_of(row, np.float32)
    expected = run("onnxruntime", model, feeds)
    actual = run("onnxruntime", ir.to_proto(lowered(model)), feeds)
    for name, value in expected.items():
        if np.asarray(value).dtype.kind == "f":
            np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def check_in_onnxruntime(row: Row, shapes: Shapes) -> None:
    """Asserts that the float32 graph runs in ONNX Runtime and agrees with float64."""
    rng = np.random.default_rng(7)
    exact, rough = normal(row, np.dtype(row.dtype), shapes), normal(row, np.dtype(np.float32), shapes)
    feeds = feeds_of(row, np.dtype(row.dtype))
    g = cotangents_of(run(row.runtime, exact, feeds), rng)
    expected = run(row.runtime, pulled_back(exact).to_proto(), {**feeds, **g})
    proto = pulled_back(rough).to_proto()
    onnx.checker.check_model(proto, full_check=False)
    single = {k: v.astype(np.float32) for k, v in {**feeds, **g}.items()}
    actual = run("onnxruntime", proto, single)
    for name, value in expected.items():
        scale = float(np.abs(value).max(initial=0)) + 1e-3
        np.testing.assert_allclose(actual[name], value, rtol=2e-3, atol=2e-4 * scale, err_msg=name)
