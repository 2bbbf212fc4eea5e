"""Loading models: reading, conversion into one form, and the errors of models that cannot be used."""

from __future__ import annotations

import io
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from caveat_worker.engine.autodiff.differentiate import expose
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.read import read_proto
from caveat_worker.engine.onnx.session import open_session
from tests.engine import nets


def assert_refused(source: Path | bytes, code: str) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        load(source)
    assert caught.value.code == code
    assert caught.value.sentence.endswith((".", "]"))
    assert caught.value.remedy.endswith(".")
    return caught.value


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04zip", b"\x89PNG\r\n\x1a\n" * 9])
def test_bytes_that_are_no_model(content: bytes) -> None:
    assert_refused(content, "not-an-onnx-file")


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return file.getvalue()


def in_the_format_of_the_runtime() -> bytes:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.save_model_format", "ORT")
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/model.ort"
        onnxruntime.InferenceSession(nets.mlp(), options, providers=["CPUExecutionProvider"])
        return Path(folder, "model.ort").read_bytes()


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (b"", "it is empty", "Copy the file again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "Git LFS's pointer", "git lfs pull"),
        (zipped("model/data.pkl", "model/version"), "a file of PyTorch", "torch.onnx.export("),
        (zipped("m/data/weights/weight_0", "m/archive_format"), "a file of PyTorch", "torch.onnx.export("),
        (zipped("metadata.json", "config.json", "model.weights.h5"), "a model of Keras", "model.export("),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "an HDF5 file", "from_keras"),
        (b"\x1c\0\0\0TFL3" + bytes(90), "TensorFlow Lite", "--tflite"),
        (in_the_format_of_the_runtime(), "ONNX Runtime's own format", "the .onnx file that it was made from"),
        (b"\x10\0\0\0\0\0\0\0{}" + b" " * 14, "safetensors", "torch.onnx.export("),
        (pickle.dumps({"a": 1}), "a pickle of Python", "skl2onnx"),
        (b'{"learner":{"attributes":{}}}', "XGBoost", "onnxmltools"),
        (b"{L\0\0\0\0\0\0\0\x07learner{", "XGBoost", "onnxmltools"),
        (b"tree\nversion=v4\n", "LightGBM", "onnxmltools"),
        (b"CBM1\xf0!", "CatBoost", "save_model"),
        (b'<?xml version="1.0"?>\n<net name="model" version="11">', "OpenVINO", "the ONNX file"),
    ],
)
def test_a_model_of_another_format_is_called_by_its_name(content: bytes, what: str, remedy: str) -> None:
    refused = assert_refused(content, "not-an-onnx-file")
    assert what in refused.sentence
    assert remedy in refused.remedy


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_model(share: float) -> None:
    content = nets.resnet()
    assert "ends early" in assert_refused(content[: int(len(content) * share)], "truncated-model").sentence


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.onnx", "no-such-file")


def test_a_model_is_read_from_a_path(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(nets.mlp())
    assert load(tmp_path / "net.onnx").inputs[0].name == "x"


def changed(make: Any, **options: Any) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(make(**options))


def test_a_custom_operator_is_named() -> None:
    proto = changed(nets.mlp)
    proto.graph.node[1].domain = "my.company"
    proto.opset_import.append(helper.make_opsetid("my.company", 1))
    refused = assert_refused(proto.SerializeToString(), "unknown-domain")
    assert "my.company" in refused.sentence
    assert proto.graph.node[1].name in refused.sentence


def test_nan_weights_are_named() -> None:
    proto = changed(nets.mlp)
    weights = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weights[0, 0] = np.nan
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w0"))
    assert "'w0'" in assert_refused(proto.SerializeToString(), "nan-weights").sentence


def test_a_name_that_is_made_twice() -> None:
    proto = changed(nets.mlp)
    proto.graph.node[1].output[0] = proto.graph.node[0].output[0]
    assert_refused(proto.SerializeToString(), "invalid-model")


def test_a_cycle() -> None:
    proto = changed(nets.mlp)
    proto.graph.node[0].input[0] = proto.graph.node[2].output[0]
    assert_refused(proto.SerializeToString(), "invalid-model")


def test_an_opset_of_the_future() -> None:
    proto = changed(nets.mlp)
    proto.opset_import[0].version = 99
    assert "99" in assert_refused(proto.SerializeToString(), "opset-too-new").sentence


def test_external_data_is_refused_unless_it_comes_as_a_bundle(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(changed(nets.mlp), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert_refused(path, "external-data")
    model = load(path, folder=tmp_path)
    feeds = nets.noise(model)
    expected = open_session(expose(load(nets.mlp()), ["sigmoid_6"])).run(feeds)
    assert np.array_equal(open_session(expose(model, ["sigmoid_6"])).run(feeds)["sigmoid_6"], expected["sigmoid_6"])


def test_external_data_does_not_leave_its_bundle(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "net.onnx"
    onnx.save(changed(nets.mlp), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    proto = onnx.load(str(path), load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret.bin"
    (tmp_path / "secret.bin").write_bytes(b"\0" * 10000)
    with pytest.raises(InvalidInput) as caught:
        load(proto.SerializeToString(), folder=tmp_path / "inside")
    assert caught.value.code == "external-data"


@pytest.mark.parametrize("name", list(nets.NETS))
def test_a_fixed_batch_becomes_free_where_the_outputs_prove_equal(name: str) -> None:
    fixed, free = load(nets.NETS[name](batch=1)), load(nets.NETS[name]())
    assert fixed.symbolic_batch
    feeds = nets.noise(free, 3)
    output = free.outputs[0].name
    one, other = (open_session(expose(m, [output]), threads=1).run(feeds)[output] for m in (fixed, free))
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_batch_that_cannot_be_freed_stays_and_is_said() -> None:
    net = nets.Net()
    mixed = net.op("MatMul", net.weight(4, 4), "x")
    model = load(net.model((4, 4), mixed))
    assert not model.symbolic_batch
    assert "exactly 4" in model.warnings[0]


def test_sizes_of_minus_one_are_any_size() -> None:
    """As Paddle's exporter writes them."""
    proto = changed(nets.mlp)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    model = load(proto.SerializeToString())
    assert model.symbolic_batch
    assert not model.warnings


def test_an_output_of_unknown_rank_is_read_and_left_as_it_was() -> None:
    proto = changed(nets.resnet)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    source = proto.SerializeToString()
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(source)
    assert not read_proto(source)[0].graph.output[0].type.tensor_type.HasField("shape")
    model, known = load(source), load(nets.resnet())
    assert model.outputs[0].shape == known.outputs[0].shape
    layers = [layer.tensor for layer in list_layers(model, Target("t", index=1))]
    assert layers == [layer.tensor for layer in list_layers(known, Target("t", index=1))]


def test_examples_that_influence_each_other_are_said() -> None:
    net = nets.Net()
    y = net.op("Sub", "x", net.op("ReduceMean", "x", net.constant([0], np.int64)))
    assert "influence" in load(net.model(("n", 4), y)).warnings[0]
    assert load(nets.resnet()).warnings == ()


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
def test_older_and_newer_opsets_compute_the_same(opset: int) -> None:
    proto = changed(nets.resnet)
    at = onnx.version_converter.convert_version(proto, opset) if opset > 18 else proto
    at.opset_import[0].version = opset
    model = load(at.SerializeToString())
    assert model.opset >= 18
    assert resolve_target(model, Target("t", index=0)).classes == 5


def test_a_function_is_inlined_and_an_if_with_a_known_condition_is_decided() -> None:
    text = """
        <ir_version: 9, opset_import: ["" : 18, "my.company" : 1]>
        net (float[n, 4] x) => (float[n, 4] y) <bool flag = {0}> {
            h = my.company.Bend(x)
            y = If (flag) <
                then_branch = yes () => (float[n, 4] a) { a = Exp(h) },
                else_branch = no () => (float[n, 4] b) { b = Tanh(h) }
            >
        }
        <domain: "my.company", opset_import: ["" : 18]>
        Bend (x) => (y) { s = Sigmoid(x) y = Mul(x, s) }
    """
    model = load(onnx.parser.parse_model(text).SerializeToString())
    assert [node.op_type for node in model.ir.graph] == ["Sigmoid", "Mul", "Tanh"]


def test_half_precision_is_said_and_works() -> None:
    net = nets.Net()
    weights = net.constant(net.rng.standard_normal((4, 4)), np.float16)
    narrow = net.op("Relu", net.op("MatMul", net.op("Cast", "x", to=TensorProto.FLOAT16), weights))
    model = load(net.model(("n", 4), net.dense(net.op("Cast", narrow, to=TensorProto.FLOAT), 4, 2)))
    assert "float32" in model.warnings[0]
    assert {layer.tensor for layer in list_layers(model, Target("t", index=0)) if layer.auditable} >= {narrow}
    assert check_gradients(model, [narrow], [Target("t", index=0)], nets.noise(model), seed=0)[0].ok


def test_the_provider_that_is_not_there_is_refused() -> None:
    model = load(nets.mlp())
    with pytest.raises(InvalidInput) as caught:
        open_session(expose(model, ["sigmoid_6"]), provider="cuda")
    assert caught.value.code == "provider-not-available"
    with pytest.raises(InvalidInput) as caught:
        open_session(expose(model, ["sigmoid_6"])).run({})
    assert caught.value.code == "missing-input"
    with pytest.raises(InvalidInput) as caught:
        open_session(expose(model, ["sigmoid_6"])).run({"x": np.zeros((2, 5), np.float32)})
    assert caught.value.code == "model-does-not-run"
