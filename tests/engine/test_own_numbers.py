"""The weights of a large model in one file are read where they are in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx import own_numbers
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.onnx.own_numbers import LOCATION, without_own_numbers
from caveat_worker.engine.onnx.session import open_session

RNG = np.random.default_rng(0)
WEIGHTS = {name: RNG.normal(size=(40, 40)).astype(np.float32) for name in ("a", "bb", "ccc")}
X = RNG.normal(size=(3, 40)).astype(np.float32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treats files and weights of a few kilobytes as large."""
    monkeypatch.setattr(own_numbers, "LEAST_FILE", 0)
    monkeypatch.setattr(own_numbers, "_LEAST", 1 << 12)


def network() -> onnx.ModelProto:
    """Three products; the names make numbers begin at every place of four, and one small weight stays."""
    nodes, x = [], "x"
    for name in WEIGHTS:
        nodes.append(helper.make_node("MatMul", [x, name], [f"{name}.product"]))
        nodes.append(helper.make_node("Tanh", [f"{name}.product"], [x := f"{name}.tanh"]))
    nodes.append(helper.make_node("Add", [x, "bias"], ["y"]))
    tensors = [
        numpy_helper.from_array(array, name) for name, array in (*WEIGHTS.items(), ("bias", np.ones(40, np.float32)))
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 40])] for name in "xy"]
    graph = helper.make_graph(nodes, "net", *ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def written(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def outputs(model: Model) -> np.ndarray:
    return open_session(Graph(model.ir), threads=1).run({"x": X})["y"]


def test_weights_are_the_bytes_of_the_file(tmp_path: Path) -> None:
    model = load(written(tmp_path / "model.onnx", network()))
    for name, array in WEIGHTS.items():
        weight = model.ir.graph.initializers[name].const_value
        assert weight is not None
        np.testing.assert_array_equal(weight.numpy(), array)
    np.testing.assert_array_equal(outputs(model), outputs(load(network().SerializeToString())))


def test_a_message_without_its_numbers_is_otherwise_the_same(tmp_path: Path) -> None:
    light = onnx.ModelProto.FromString(without_own_numbers(written(tmp_path / "model.onnx", network())) or b"")
    content = (tmp_path / "model.onnx").read_bytes()
    places = set()
    for tensor in light.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            offset, length = int(entries["offset"]), int(entries["length"])
            places.add(offset % 4)
            tensor.raw_data = content[offset : offset + length]
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    assert places - {0}
    assert light == network()


def test_a_weight_of_the_wrong_size_is_named(tmp_path: Path) -> None:
    model = network()
    model.graph.initializer[1].raw_data = model.graph.initializer[1].raw_data[:-8]
    with pytest.raises(InvalidInput, match="tensor 'bb' has 6,392 bytes, and its type and shape take 6,400"):
        load(written(tmp_path / "model.onnx", model))


def test_not_a_number_is_found_there(tmp_path: Path) -> None:
    model = network()
    model.graph.initializer[2].raw_data = np.full((40, 40), np.nan, np.float32).tobytes()
    with pytest.raises(InvalidInput, match="'ccc' contain NaN"):
        load(written(tmp_path / "model.onnx", model))


@pytest.mark.parametrize(
    "content",
    [
        b"\x08",
        network().SerializeToString()[:-100],
        network().SerializeToString() * 2,
        b"\xff" * 5000,
        b"\x3a\x05abc",
    ],
    ids=["a tag", "cut off", "two graphs", "no message", "too long"],
)
def test_what_no_exporter_writes_is_left_to_the_parser(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert without_own_numbers(path) is None
    with pytest.raises(InvalidInput):
        load(path)


def test_a_small_file_that_refers_to_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_numbers, "LEAST_FILE", 64 << 20)
    model = network()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=LOCATION)
    with pytest.raises(InvalidInput, match="another file"):
        load(written(tmp_path / "model.onnx", model))
