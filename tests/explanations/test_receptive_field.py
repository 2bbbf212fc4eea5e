"""What a place of a layer sees is what can change it: held against a loop that changes one pixel at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from caveat_worker.engine.autodiff.differentiate import expose
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.explanations.receptive_field import receptive_field
from caveat_worker.engine.onnx.session import open_session
from tests.engine.nets import Net

ROWS, COLUMNS = 14, 13


def strided(net: Net) -> str:
    first = net.conv("x", 1, 2, k=3, stride=2)
    return str(net.op("MaxPool", net.conv(first, 2, 2, k=1), kernel_shape=[2, 2], strides=[1, 1]))


def dilated(net: Net) -> str:
    kernel = net.weight(2, 1, 3, 2)
    return str(net.op("Conv", "x", kernel, dilations=[2, 3], strides=[1, 2]))


def same_upper(net: Net) -> str:
    first = net.op("Conv", "x", net.weight(2, 1, 4, 3), auto_pad="SAME_UPPER", strides=[2, 2])
    return str(net.op("Conv", first, net.weight(2, 2, 2, 2), auto_pad="SAME_LOWER"))


def padded(net: Net) -> str:
    wide = net.op("Pad", "x", net.constant([0, 0, 2, 1, 0, 0, 1, 2], np.int64))
    return str(net.op("AveragePool", wide, kernel_shape=[3, 3], strides=[2, 1]))


def branches(net: Net) -> str:
    x = net.conv("x", 1, 2, k=3)
    joined = net.op("Concat", net.conv(x, 2, 2, k=1), net.conv(x, 2, 2, k=5), axis=1)
    return str(net.op("Add", net.conv(joined, 4, 2, k=1), net.conv("x", 1, 2, k=1)))


def turned(net: Net) -> str:
    return str(net.op("Transpose", net.conv("x", 1, 2, k=3, stride=2), perm=[0, 3, 2, 1]))


def gated(net: Net) -> str:
    x = net.conv("x", 1, 2, k=3)
    return str(net.op("Mul", x, net.op("Sigmoid", net.op("GlobalAveragePool", x))))


def literal(proto: bytes, tensor: str, shape: tuple[int, ...]) -> np.ndarray:
    """[*layer without batch, rows, columns]: whether changing a pixel alone changes a number of the layer."""
    session = open_session(expose(load(proto, interacts=False), [tensor]))
    x = np.random.default_rng(0).standard_normal((1, 1, ROWS, COLUMNS)).astype(np.float32)
    changed = np.repeat(x, ROWS * COLUMNS, axis=0)
    changed.reshape(len(changed), -1)[np.arange(len(changed)), np.arange(len(changed))] += 50
    before, after = (np.asarray(session.run({"x": one})[tensor]) for one in (x, changed))
    return np.moveaxis(before[0] != after, 0, -1).reshape(*shape, ROWS, COLUMNS)


@pytest.mark.parametrize("build", [strided, dilated, same_upper, padded, branches, turned])
def test_a_place_sees_what_changes_it_and_nothing_else(build: Callable[[Net], str]) -> None:
    net = Net(5)
    tensor = build(net)
    proto = net.model(("n", 1, ROWS, COLUMNS), tensor)
    model = load(proto, interacts=False)
    axes = receptive_field(model, tensor, "x")
    own = {sees.axis: (axis - 1, sees) for axis, sees in enumerate(axes) if sees is not None and sees.axis > 1}
    shape = tuple(
        open_session(expose(model, [tensor])).run({"x": np.zeros((1, 1, ROWS, COLUMNS), np.float32)})[tensor].shape[1:]
    )
    changes = literal(proto, tensor, shape)
    assert own.keys() == {2, 3}
    (rows, by_row), (columns, by_column) = own[2], own[3]
    channels = next(axis for axis in range(3) if axis not in (rows, columns))
    for place in np.ndindex(*(shape[axis] for axis in (rows, columns))):
        index: list[Any] = [slice(None)] * 3
        index[rows], index[columns] = place
        there = np.argwhere(changes[tuple(index)].any(0))
        assert channels in range(3)
        if len(there):  # a place in the padding sees nothing
            first, last = there.min(0), there.max(0)
            spans = by_row.of(place[0], ROWS), by_column.of(place[1], COLUMNS)
            assert spans == ((first[0], last[0]), (first[1], last[1]))


def test_what_mixes_all_places_sees_everything() -> None:
    net = Net(5)
    tensor = gated(net)
    model = load(net.model(("n", 1, ROWS, COLUMNS), tensor), interacts=False)
    assert receptive_field(model, tensor, "x")[2:] == (None, None)
