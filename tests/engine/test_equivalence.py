"""A rewritten model is that of its file by proof, where nothing was rewritten, and else by a trial on noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from caveat_worker.engine.autodiff import load as loading
from caveat_worker.engine.autodiff.equivalence import is_as_written
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.base.errors import InvalidInput
from tests.engine import nets


def read(proto: onnx.ModelProto) -> ir.Model:
    return ir.from_proto(proto)


def network() -> onnx.ModelProto:
    net = nets.Net()
    pooled = net.op("MaxPool", net.op("Relu", net.conv("x", 3, 4)), kernel_shape=[2, 2], strides=[2, 2])
    flat = net.op("Flatten", net.op("GlobalAveragePool", pooled))
    return onnx.load_from_string(net.model(("n", 3, 8, 8), net.dense(flat, 4, 3)))


def one_bit_of_a_weight(proto: onnx.ModelProto) -> None:
    values = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    values.flat[0] = np.nextafter(values.flat[0], np.float32(9))
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, proto.graph.initializer[0].name))


def an_attribute(proto: onnx.ModelProto) -> None:
    (pool,) = (node for node in proto.graph.node if node.op_type == "MaxPool")
    next(one for one in pool.attribute if one.name == "strides").ints[0] = 1


def an_attribute_less(proto: onnx.ModelProto) -> None:
    (pool,) = (node for node in proto.graph.node if node.op_type == "MaxPool")
    del pool.attribute[1]


def an_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].op_type = "Tanh"


def what_an_operator_reads(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].input[0] = proto.graph.node[0].output[0]


def the_operators_version(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 19


def another_output(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = proto.graph.node[-2].output[0]


def the_type_of_an_input(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def test_a_graph_is_as_it_was_written() -> None:
    assert is_as_written(read(network()), read(network()))


@pytest.mark.parametrize(
    "change",
    [
        one_bit_of_a_weight, an_attribute, an_attribute_less, an_operator, what_an_operator_reads,
        the_operators_version, another_output, the_type_of_an_input,
    ],
)  # fmt: skip
def test_a_graph_that_differs_anywhere_is_not(change: Callable[[onnx.ModelProto], None]) -> None:
    changed = network()
    change(changed)
    assert not is_as_written(read(network()), read(changed))
    assert not is_as_written(read(changed), read(network()))


def test_a_graph_with_a_branch_is_not_looked_into() -> None:
    text = """
        <ir_version: 9, opset_import: ["" : 18]>
        net (float[n, 4] x, bool flag) => (float[n, 4] y) {
            y = If (flag) <
                then_branch = yes () => (float[n, 4] a) { a = Exp(x) },
                else_branch = no () => (float[n, 4] b) { b = Tanh(x) }
            >
        }
    """
    proto = onnx.parser.parse_model(text)
    assert not is_as_written(read(proto), read(proto))


def test_a_model_that_was_rewritten_is_compared_on_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewriting that loses an operator is found, and one that changes nothing needs no run."""
    asked = []
    compare = loading.compare_with_file
    monkeypatch.setattr(
        loading, "compare_with_file", lambda *given, **how: (asked.append(given), compare(*given, **how))
    )
    load(network().SerializeToString())
    assert not asked
    lower = loading.lower

    def wrongly(model: ir.Model) -> ir.Model:
        for node in lower(model).graph:
            if node.op_type == "Relu":
                node.op_type = "Sigmoid"
        return model

    monkeypatch.setattr(loading, "lower", wrongly)
    with pytest.raises(InvalidInput) as refused:
        load(network().SerializeToString())
    assert asked
    assert refused.value.code == "conversion-changed-the-model"
