"""Weights in other files: mapped from a folder or from a bundle, wherever in the model they belong."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from caveat_spec.bundle import _STARTS, MODEL, entry_of
from caveat_worker.engine.autodiff.differentiate import differentiate
from caveat_worker.engine.autodiff.external_gradients import read_external_gradients, verify
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.onnx.session import open_session
from tests.engine import nets

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)


def moved(tensor: TensorProto, data: bytearray, *, shift: int = 0) -> TensorProto:
    """The tensor with its numbers appended to `data`, `shift` bytes behind the last ones."""
    numbers = numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
    data.extend(bytes(shift))
    outside = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    outside.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", "offset": len(data), "length": len(numbers)}.items():
        outside.external_data.add(key=key, value=str(value))
    data.extend(numbers)
    return outside


def bundle(path: Path, model: onnx.ModelProto, data: bytes, *, name: str = "w.bin") -> Path:
    """A tar of the model and its data."""
    parts = path.parent / MODEL, path.parent / "data"
    parts[0].write_bytes(model.SerializeToString())
    parts[1].write_bytes(data)
    with tarfile.open(path, "w") as archive:
        archive.add(parts[0], MODEL)
        archive.add(parts[1], name)
    return path


def run(path: Path) -> np.ndarray:
    model = load(path)
    return open_session(Graph(model.ir), threads=1).run({"x": X})[model.outputs[0].name]


def matmul(nodes: Sequence[onnx.NodeProto], tensors: Sequence[TensorProto] = (), **more: object) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    graph = helper.make_graph(list(nodes), "net", [x], [y], list(tensors))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)


MULTIPLY = helper.make_node("MatMul", ["x", "w"], ["y"])


def initializer(w: TensorProto) -> onnx.ModelProto:
    return matmul([MULTIPLY], [w])


def constant(w: TensorProto) -> onnx.ModelProto:
    return matmul([helper.make_node("Constant", [], ["w"], value=w), MULTIPLY])


def in_a_branch(w: TensorProto) -> onnx.ModelProto:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    branch = helper.make_graph([MULTIPLY], "branch", [], [y], [w])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    return matmul([choice], [numpy_helper.from_array(np.array(True), "c")])


def in_a_function(w: TensorProto) -> onnx.ModelProto:
    body = [helper.make_node("Constant", [], ["w"], value=w), MULTIPLY]
    function = helper.make_function("own", "F", ["x"], ["y"], body, [helper.make_opsetid("", 18)])
    return matmul([helper.make_node("F", ["x"], ["y"], domain="own")], functions=[function])


@pytest.mark.parametrize("where", [initializer, constant, in_a_branch, in_a_function])
def test_numbers_are_found_wherever_the_model_has_them(
    where: Callable[[TensorProto], onnx.ModelProto], tmp_path: Path
) -> None:
    data = bytearray()
    path = bundle(tmp_path / "bundle.tar", where(moved(numpy_helper.from_array(W, "w"), data)), bytes(data))
    np.testing.assert_allclose(run(path), X @ W, rtol=1e-5)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8])
def test_numbers_of_every_width_are_mapped(kind: int, tmp_path: Path) -> None:
    data, dtype = bytearray(), helper.tensor_dtype_to_np_dtype(kind)
    w = moved(numpy_helper.from_array((W * 10).astype(dtype), "w8"), data)
    model = matmul([helper.make_node("Cast", ["w8"], ["w"], to=TensorProto.FLOAT), MULTIPLY], [w])
    path = bundle(tmp_path / "bundle.tar", model, bytes(data))
    np.testing.assert_allclose(run(path), X @ (W * 10).astype(dtype).astype(np.float32), rtol=1e-4, atol=1e-4)


def test_numbers_of_four_bits_are_unpacked(tmp_path: Path) -> None:
    packed = TensorProto(name="w4", data_type=TensorProto.INT4, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    packed.external_data.add(key="location", value="w.bin")
    model = matmul([helper.make_node("Cast", ["w4"], ["w"], to=TensorProto.FLOAT), MULTIPLY], [packed])
    model.opset_import[0].version, model.ir_version = 21, 10
    path = bundle(tmp_path / "bundle.tar", model, bytes([0x21] * 8))
    np.testing.assert_allclose(run(path), X @ np.tile(np.array([1, 2], np.float32), (4, 2)), rtol=1e-5)


def test_numbers_across_their_natural_places_are_read(tmp_path: Path) -> None:
    data = bytearray()
    model = initializer(moved(numpy_helper.from_array(W, "w"), data, shift=3))
    np.testing.assert_allclose(run(bundle(tmp_path / "bundle.tar", model, bytes(data))), X @ W, rtol=1e-5)


def test_a_folder_and_a_bundle_give_the_same_model(tmp_path: Path) -> None:
    data = bytearray()
    model = initializer(moved(numpy_helper.from_array(W, "w"), data))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "w.bin").write_bytes(data)
    beside = load(model.SerializeToString(), folder=tmp_path / "folder")
    (from_folder,) = open_session(Graph(beside.ir), threads=1).run({"x": X}).values()
    assert np.array_equal(from_folder, run(bundle(tmp_path / "bundle.tar", model, bytes(data))))


def test_a_thousand_tensors_are_one_mapping(tmp_path: Path) -> None:
    data, tensors = bytearray(), []
    for number in range(1000):
        tensors.append(moved(numpy_helper.from_array(W * (number == 0), f"w{number}"), data))
    nodes = [helper.make_node("Sum", [f"w{number}" for number in range(1000)], ["w"]), MULTIPLY]
    path = bundle(tmp_path / "bundle.tar", matmul(nodes, tensors), bytes(data))
    model = load(path)
    assert Path("/proc/self/maps").read_text().count(str(path)) == 1
    (y,) = open_session(Graph(model.ir), threads=1).run({"x": X}).values()
    np.testing.assert_allclose(y, X @ W, rtol=1e-5)


def test_the_rest_of_the_model_is_checked_as_if_it_were_one_file(tmp_path: Path) -> None:
    data = bytearray()
    model = initializer(moved(numpy_helper.from_array(W, "w"), data))
    model.graph.node.append(model.graph.node[0])
    with pytest.raises(InvalidInput, match="breaks a rule of ONNX") as caught:
        load(bundle(tmp_path / "bundle.tar", model, bytes(data)))
    assert caught.value.code == "invalid-model"


def test_a_bundle_without_its_data_says_what_is_missing(tmp_path: Path) -> None:
    model = initializer(moved(numpy_helper.from_array(W, "w"), bytearray()))
    with pytest.raises(InvalidInput, match=r"'w' should be in 'w\.bin', which is not in the bundle"):
        load(bundle(tmp_path / "bundle.tar", model, bytes(64), name="other.bin"))
    with pytest.raises(InvalidInput, match=r"'w' end at byte 64 of 'w\.bin', which has 63"):
        load(bundle(tmp_path / "bundle.tar", model, bytes(63)))


def test_a_supplied_gradient_may_be_a_bundle(tmp_path: Path) -> None:
    model, target = load(nets.mlp()), Target("t")
    proto = differentiate(model, [model.inputs[0].name], [target]).to_proto()
    data, tensors = bytearray(), list(proto.graph.initializer)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(moved(tensor, data) for tensor in tensors)
    external = read_external_gradients(bundle(tmp_path / "gradient.tar", proto, bytes(data)), model)
    assert all(check.ok for check in verify(external, model, [target]))


@pytest.mark.parametrize(
    ("location", "entry"),
    [
        ("w.bin", "w.bin"),
        ("./a//w.bin", "a/w.bin"),
        ("...", "..."),
        ("../w.bin", None),
        ("a/../w.bin", None),
        ("/w.bin", None),
        ("C:w.bin", None),
        ("\\w.bin", None),
        ("a\\..\\..\\w.bin", None),
        (".", None),
        ("", None),
        (f"./{MODEL}", None),
    ],
)
def test_only_locations_inside_the_folder_have_an_entry(location: str, entry: str | None) -> None:
    assert entry_of(location) == entry


@pytest.mark.parametrize("start", _STARTS)
def test_no_bundle_can_be_read_as_a_model(start: bytes) -> None:
    for rest in (b"", bytes(100), b"\x08" * 100, b"\xff" * 100):
        with pytest.raises(DecodeError):
            onnx.ModelProto.FromString(start + rest)
