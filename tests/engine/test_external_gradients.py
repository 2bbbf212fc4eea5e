"""External gradient graphs: a correct one passes the comparison with the model, a wrong one fails with figures."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from onnx import helper, numpy_helper

from caveat_worker.engine.autodiff.differentiate import differentiate
from caveat_worker.engine.autodiff.external_gradients import ExternalGradients, read_external_gradients, verify
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.base.errors import InvalidInput
from tests.engine import nets

FIRST = Target("first", index=0)


def own(model: Model, *layers: str, target: Target = FIRST) -> onnx.ModelProto:
    """A gradient graph as a user might supply it."""
    proto = differentiate(model, layers, [target]).to_proto()
    kept = [output for output in proto.graph.output if output.name.startswith("gradient/")]
    del proto.graph.output[:]
    proto.graph.output.extend(kept)
    return proto


def renamed(proto: onnx.ModelProto, before: str, after: str) -> onnx.ModelProto:
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [after if name == before else name for name in names]
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = after if value.name == before else value.name
    return proto


def scaled(proto: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """The graph with each gradient multiplied by a factor."""
    for output in proto.graph.output:
        renamed_to = f"{output.name}/before"
        for node in proto.graph.node:
            node.output[:] = [renamed_to if name == output.name else name for name in node.output]
        proto.graph.node.append(helper.make_node("Mul", [renamed_to, "factor"], [output.name]))
    proto.graph.initializer.append(numpy_helper.from_array(nets.np.float32(factor), "factor"))
    return proto


def read(proto: onnx.ModelProto, model: Model) -> ExternalGradients:
    return read_external_gradients(proto.SerializeToString(), model)


@pytest.mark.parametrize("name", list(nets.NETS))
def test_a_right_gradient_is_verified_at_ties_too(name: str) -> None:
    model = load(nets.NETS[name]())
    layers = {"resnet": ["relu_2", "maxpool_3", "x"], "squeezenet": ["relu_1", "concat_9"]}.get(name, ["x"])
    external = read(own(model, *layers), model)
    assert external.tensors == {"first": tuple(layers)}
    checks = verify(external, model, [FIRST])
    assert [check.layer for check in checks] == layers
    assert all(check.residual < 0.02 for check in checks)


WRONG: dict[str, Callable[[Model], onnx.ModelProto]] = {
    "the sign is turned": lambda model: scaled(own(model, "relu_2"), -1.0),
    "it is averaged over the batch": lambda model: scaled(own(model, "relu_2"), 0.5),
    "it is five in a hundred off": lambda model: scaled(own(model, "relu_2"), 1.05),
    "another class": lambda model: renamed(
        own(model, "relu_2", target=Target("other", index=1)), "gradient/other/relu_2", "gradient/first/relu_2"
    ),
    "a probability": lambda model: own(model, "relu_2", target=Target("first", index=0, scale="probability")),
    "before the relu, not after": lambda model: renamed(
        own(model, "batchnormalization_1"), "gradient/first/batchnormalization_1", "gradient/first/relu_2"
    ),
}


@pytest.mark.parametrize("mistake", list(WRONG))
def test_a_wrong_gradient_is_refused_with_figures(mistake: str) -> None:
    model = load(nets.resnet())
    with pytest.raises(
        InvalidInput, match=r"by \d.* of its size \(tolerance 0\.02\), with a cosine of -?\d\.\d{3}"
    ) as caught:
        verify(read(WRONG[mistake](model), model), model, [FIRST])
    assert caught.value.code == "supplied-gradient-wrong"


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda proto: renamed(proto, "gradient/first/relu_2", "g"), "no-gradients", "'g'"),
        (lambda proto: renamed(proto, "gradient/first/relu_2", "gradient/first/relu"), "gradient-of-nothing", "'relu'"),
        (lambda proto: renamed(proto, "gradient/first/relu_2", "gradient/f/relu_2"), "gradient-not-supplied", "'f'"),
        (lambda proto: renamed(proto, "x", "pixels"), "gradient-reads-other-inputs", "x as float32"),
    ],
)
def test_a_graph_that_breaks_the_contract(
    change: Callable[[onnx.ModelProto], onnx.ModelProto], code: str, words: str
) -> None:
    model = load(nets.resnet())
    with pytest.raises(InvalidInput) as caught:
        verify(read(change(own(model, "relu_2")), model), model, [FIRST])
    assert caught.value.code == code
    assert words in caught.value.sentence


def test_a_batch_of_one_will_do_and_one_of_eight_will_not() -> None:
    model = load(nets.mlp())
    proto = own(model, "relu_1", target=Target("t"))
    size = proto.graph.input[0].type.tensor_type.shape.dim[0]
    size.dim_value = 1
    one = read(proto, model)
    assert one.batch == 1
    assert verify(one, model, [Target("t")])
    size.dim_value = 8
    with pytest.raises(InvalidInput, match="exactly 8"):
        read(proto, model)


def test_a_gradient_of_another_shape() -> None:
    model = load(nets.mlp())
    proto = own(model, "relu_1", target=Target("t"))
    for node in proto.graph.node:
        node.output[:] = ["rows" if name == "gradient/t/relu_1" else name for name in node.output]
    proto.graph.node.append(helper.make_node("Transpose", ["rows"], ["gradient/t/relu_1"], perm=[1, 0]))
    for axis, name in zip(proto.graph.output[0].type.tensor_type.shape.dim, ("units", "n"), strict=True):
        axis.dim_param = name
    with pytest.raises(InvalidInput, match="has the shape"):
        verify(read(proto, model), model, [Target("t")])
