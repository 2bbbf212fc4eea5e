"""Rules under random attributes: a few cases in the quick run, thousands in the slow run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from caveat_worker.engine.base.errors import InvalidInput
from tests.engine.oracles import (
    NotDifferentiated,
    Row,
    check_adjoint,
    check_against_differences,
    feeds_of,
    lowered,
    run,
    single_node,
)

QUICK, SLOW = 12, 2500
Draw = Callable[..., Any]


def noise(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape) + 1).standard_normal(shape)


def _window(
    draw: Draw, rank: int, *, dilations: bool = True, auto: bool = True, pads_below_kernel: bool = False
) -> dict[str, Any]:
    kernel = draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    window: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank)),
    }
    if dilations:
        window["dilations"] = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    style = draw(st.sampled_from(["none", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"] if auto else ["none", "pads"]))
    if pads_below_kernel and style.startswith("SAME"):
        window.pop("dilations")  # on which runtimes differ
    if style == "pads":
        most = [k - 1 for k in kernel] * 2 if pads_below_kernel else [3] * 2 * rank
        window["pads"] = [draw(st.integers(0, m)) for m in most]
    elif style != "none":
        window["auto_pad"] = style
    return window


@st.composite
def conv(draw: Draw) -> Row:
    rank, group, each = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    window = _window(draw, rank)
    sizes = draw(st.lists(st.integers(3, 9), min_size=rank, max_size=rank))
    weights = noise(group * draw(st.integers(1, 2)), each, *window["kernel_shape"])
    inputs = [noise(draw(st.integers(1, 2)), group * each, *sizes), weights]
    return Row("Conv", inputs, {**window, "group": group}, through=(0,))


@st.composite
def conv_transpose(draw: Draw) -> Row:
    rank, group, each = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    window = _window(draw, rank, auto=False)
    sizes = draw(st.lists(st.integers(2, 6), min_size=rank, max_size=rank))
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(window["strides"], window["dilations"], strict=True)]
    if draw(st.booleans()):
        window["output_padding"] = extra
    inputs = [noise(2, group * each, *sizes), noise(group * each, draw(st.integers(1, 2)), *window["kernel_shape"])]
    return Row("ConvTranspose", inputs, {**window, "group": group}, through=(0,))


@st.composite
def average_pool(draw: Draw) -> Row:
    rank = draw(st.integers(1, 3))
    window = _window(draw, rank, pads_below_kernel=True)
    sizes = draw(st.lists(st.integers(3, 9), min_size=rank, max_size=rank))
    more = {"count_include_pad": draw(st.integers(0, 1)), "ceil_mode": draw(st.integers(0, 1))}
    return Row("AveragePool", [noise(2, 2, *sizes)], {**window, **more})


@st.composite
def max_pool(draw: Draw) -> Row:
    rank = draw(st.integers(1, 3))
    window = _window(draw, rank, pads_below_kernel=True)
    sizes = draw(st.lists(st.integers(3, 8), min_size=rank, max_size=rank))
    return Row("MaxPool", [noise(2, 2, *sizes)], {**window, "ceil_mode": draw(st.integers(0, 1))})


@st.composite
def slices(draw: Draw) -> Row:
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    axes = draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=len(sizes), unique=True))
    bounds = st.integers(-8, 8)
    starts, ends, steps = ([draw(s) for _ in axes] for s in (bounds, bounds, st.sampled_from([-3, -2, -1, 1, 2, 3])))
    index = [slice(None)] * len(sizes)
    for axis, a, b, s in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(a, b, s)
    assume(noise(*sizes)[tuple(index)].size)
    return Row("Slice", [noise(*sizes), *(np.asarray(v, np.int64) for v in (starts, ends, axes, steps))])


@st.composite
def gather(draw: Draw) -> Row:
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    axis = draw(st.integers(-len(sizes), len(sizes) - 1))
    shape = draw(st.lists(st.integers(1, 3), max_size=2))
    index = st.integers(-sizes[axis], sizes[axis] - 1)
    indices = np.asarray([draw(index) for _ in range(int(np.prod(shape)))], np.int64).reshape(shape)
    return Row("Gather", [noise(*sizes), indices], {"axis": axis})


@st.composite
def pad(draw: Draw) -> Row:
    sizes = draw(st.lists(st.integers(2, 5), min_size=1, max_size=3))
    mode = draw(st.sampled_from(["constant", "reflect", "edge", "wrap"]))
    least = -1 if mode == "constant" else 0
    pads = [draw(st.integers(least, n - 1)) for n in sizes * 2]
    return Row("Pad", [noise(*sizes), np.asarray(pads, np.int64)], {"mode": mode}, through=(0,))


@st.composite
def resize(draw: Draw) -> Row:
    sizes = draw(st.lists(st.integers(2, 6), min_size=2, max_size=2))
    attributes: dict[str, Any] = {
        "mode": draw(st.sampled_from(["nearest", "linear", "cubic"])),
        "coordinate_transformation_mode": draw(
            st.sampled_from(["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])
        ),
    }
    if attributes["mode"] == "nearest":
        attributes["nearest_mode"] = draw(st.sampled_from(["round_prefer_floor", "floor", "ceil", "round_prefer_ceil"]))
    if draw(st.booleans()):
        wanted = np.asarray([1, 2, *(draw(st.integers(1, 9)) for _ in sizes)], np.int64)
        return Row("Resize", [noise(1, 2, *sizes), None, None, wanted], attributes, through=(0,))
    scales = np.asarray([1, 1, *(draw(st.sampled_from([0.5, 1, 1.5, 2, 3])) for _ in sizes)], np.float32)
    return Row("Resize", [noise(1, 2, *sizes), None, scales], attributes, through=(0,))


@st.composite
def reductions(draw: Draw) -> Row:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axes = draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=len(sizes), unique=True))
    axes = [axis - draw(st.sampled_from([0, len(sizes)])) for axis in axes]
    operator = draw(st.sampled_from(["ReduceSum", "ReduceMean"]))
    inputs = [noise(*sizes), None if draw(st.booleans()) else np.asarray(axes, np.int64)]
    return Row(operator, inputs, {"keepdims": draw(st.integers(0, 1))})


@st.composite
def broadcasts(draw: Draw) -> Row:
    full = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    parts = []
    for _ in range(2):
        length = draw(st.integers(0, len(full)))
        parts.append(np.abs(noise(*(d if draw(st.booleans()) else 1 for d in full[len(full) - length :]))) + 0.5)
    operator = draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"]))
    return Row(operator, [parts[0], parts[1] * 1.1])


@st.composite
def matmuls(draw: Draw) -> Row:
    m, k, n = (draw(st.integers(1, 4)) for _ in range(3))
    batch = draw(st.lists(st.integers(1, 3), max_size=2))
    a, b = ([d if draw(st.booleans()) else 1 for d in batch[draw(st.integers(0, len(batch))) :]] for _ in range(2))
    left = noise(*a, m, k) if draw(st.booleans()) else noise(k)
    return Row("MatMul", [left, noise(*b, k, n) if draw(st.booleans()) else noise(k)])


LINEAR = {
    "Conv": conv, "ConvTranspose": conv_transpose, "AveragePool": average_pool, "Slice": slices, "Gather": gather,
    "Pad": pad, "Resize": resize, "Reduce": reductions,
}  # fmt: skip
SMOOTH = {"MaxPool": max_pool, "broadcasting": broadcasts, "MatMul": matmuls}
SHAPES = st.sampled_from(["static", "batch", "dynamic"])


def runs(row: Row) -> bool:
    """Whether ONNX Runtime takes this use of the operator."""
    try:
        lowered(single_node(row, np.float32, "static"))
        return bool(run("onnxruntime", single_node(row, np.float32, "static"), feeds_of(row, np.float32))["y0"].size)
    except Exception:  # ONNX Runtime's exceptions share no base class
        return False


def check_adjoints(family: str, examples: int) -> None:
    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(row=LINEAR[family](), shapes=SHAPES)
    def holds(row: Row, shapes: Any) -> None:
        try:
            assume(check_adjoint(row, shapes))
        except (NotDifferentiated, InvalidInput) as why:
            if shapes == "static" and "runtimes" not in str(why):
                raise

    holds()


def check_differences(family: str, examples: int) -> None:
    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(row=SMOOTH[family](), shapes=SHAPES)
    def holds(row: Row, shapes: Any) -> None:
        if family == "MaxPool":
            row = Row(row.op, row.inputs, row.attributes, runtime="onnxruntime", opset=18)
        assume(runs(row))
        try:
            check_against_differences(row, shapes)
        except NotDifferentiated:
            assert shapes != "static"

    holds()


@pytest.mark.parametrize("family", list(LINEAR))
def test_linear_operators_have_their_adjoint(family: str) -> None:
    check_adjoints(family, QUICK)


@pytest.mark.parametrize("family", list(SMOOTH))
def test_other_operators_agree_with_differences(family: str) -> None:
    check_differences(family, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("family", list(LINEAR))
def test_linear_operators_have_their_adjoint_at_length(family: str) -> None:
    check_adjoints(family, SLOW)


@pytest.mark.slow
@pytest.mark.parametrize("family", list(SMOOTH))
def test_other_operators_agree_with_differences_at_length(family: str) -> None:
    check_differences(family, SLOW // 4)
