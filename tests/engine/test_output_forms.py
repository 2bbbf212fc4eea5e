"""Maps, sequences and outputs with the batch behind another axis become tensors with a row for each example."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnxruntime
import pytest

from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.output_forms import unwrap_outputs
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.onnx.session import open_session

TIME_FIRST = """<ir_version: 10, opset_import: ["": %d]>
g (float[batch, 3, time] x) => (float[time, batch, 3] scores, float[time, batch, 3] answer) {
    moved = Transpose<perm = [2, 0, 1]>(x)
    scores = Tanh(moved)
    answer = %s(scores)
}"""
READ_IN_A_BODY = """<ir_version: 10, opset_import: ["": 18]>
g (float[batch, 3, time] x) => (float[time, batch, 3] scores, float[batch, 3] chosen)
<int64 few = {50}, int64[1] zero = {0}> {
    scores = Transpose<perm = [2, 0, 1]>(x)
    count = Size(x)
    many = Less(few, count)
    chosen = If(many) <
        then_branch = first () => (float[batch, 3] a) { a = ReduceMax<keepdims = 0>(scores, zero) },
        else_branch = second () => (float[batch, 3] b) { b = ReduceMin<keepdims = 0>(scores, zero) }
    >
}"""
TWO_ANSWERS = """<ir_version: 10, opset_import: ["": 18]>
g (float[batch, 3] x) => (seq(float[batch, 3]) answers, float[batch, 3] again) {
    first = Softmax(x)
    second = Sigmoid(x)
    answers = SequenceConstruct(first, second)
    again = Identity(second)
}"""


@pytest.mark.parametrize(
    ("opset", "last", "link"),
    [
        (18, "Softmax", "softmax"),
        (18, "Softmax<axis = 2>", "softmax"),
        (18, "LogSoftmax", "softmax"),
        (18, "Sigmoid", "sigmoid"),
        (18, "Softmax<axis = 0>", "softmax"),
        (11, "Softmax<axis = 2>", "probabilities"),
        (18, "Tanh", "none"),
    ],
)
def test_an_output_with_time_first_is_transposed(opset: int, last: str, link: str) -> None:
    proto = onnx.parser.parse_model(TIME_FIRST % (opset, last))
    written = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    model = load(proto.SerializeToString())
    x = np.random.default_rng(0).normal(size=(5, 3, 7)).astype(np.float32)
    read = open_session(Graph(model.ir), threads=1).run({"x": x})
    for name, values in zip(("scores", "answer"), written.run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(read[name], values.transpose(1, 0, 2), rtol=1e-5, atol=1e-7)
    assert model.warnings == tuple(
        f"Output '{name}' has examples along axis 1; it is transposed." for name in ("scores", "answer")
    )
    assert resolve_target(model, Target("t", "answer", 1, reduce="mean")).link == link


def test_a_body_reads_an_output_that_is_transposed_as_it_was_written() -> None:
    proto = onnx.parser.parse_model(READ_IN_A_BODY)
    before = onnx.ModelProto()
    before.CopyFrom(proto)
    unwrap_outputs(proto)
    onnx.checker.check_model(proto, full_check=True)
    x = np.random.default_rng(0).normal(size=(5, 3, 7)).astype(np.float32)
    (scores, chosen), (moved, same) = (
        onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
        for one in (before, proto)
    )
    np.testing.assert_array_equal(moved, scores.transpose(1, 0, 2))
    np.testing.assert_array_equal(same, chosen)


def test_a_sequence_becomes_its_tensors() -> None:
    model = load(onnx.parser.parse_model(TWO_ANSWERS).SerializeToString())
    assert [(one.name, one.shape) for one in model.outputs] == [
        ("first", ("batch", 3)),
        ("second", ("batch", 3)),
        ("again", ("batch", 3)),
    ]
    assert resolve_target(model, Target("t", "first", 1)).link == "softmax"
    assert resolve_target(model, Target("t", "second", 1)).link == "sigmoid"


@pytest.mark.parametrize("opset", [11, 18])
def test_scores_of_steps_keep_their_batch_before_a_softmax_of_an_old_opset(opset: int) -> None:
    """Such a softmax is converted to one of rows [n t, c], which have no row for each example."""
    text = TIME_FIRST.replace("<perm = [2, 0, 1]>", "<perm = [0, 2, 1]>").replace("time, batch, 3", "batch, time, 3")
    model = load(onnx.parser.parse_model(text % (opset, "Softmax<axis = 2>")).SerializeToString())
    resolved = resolve_target(model, Target("t", "answer", 1, reduce="mean"))
    assert (resolved.tensor, resolved.link, resolved.classes) == ("scores", "softmax", 3)
    with pytest.raises(InvalidInput, match="another axis beside those of the batch and of the classes"):
        resolve_target(model, Target("t", "answer", 1))
