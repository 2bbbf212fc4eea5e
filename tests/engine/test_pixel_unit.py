"""What a graph does first with its input shows which pixels it was made for, where it shows that at all."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from caveat_spec.audit import Preprocess
from caveat_spec.cautions import own_scaling
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.data_checks import _check_scaling
from caveat_worker.engine.onnx.pixel_unit import brightest_pixel

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def graph(*steps: tuple[str, object], uses: int = 1, constants: bool = False) -> ir.Model:
    """A model that applies operators to its input [n, 3, 4, 4], each with a constant on its right, or without one."""
    nodes, weights, value = [], [], "x"
    for place, (operator, given) in enumerate(steps):
        names = [value]
        if given is not None:
            array = numpy_helper.from_array(np.reshape(np.asarray(given, np.float32), (-1, 1, 1)), f"c{place}")
            names.append(array.name)
            if constants:
                nodes.append(helper.make_node("Constant", [], [array.name], value=array))
            else:
                weights.append(array)
        attributes = {"perm": [0, 1, 3, 2]} if operator == "Transpose" else {}
        attributes |= {"to": TensorProto.FLOAT} if operator == "Cast" else {}
        nodes.append(helper.make_node(operator, names, [f"v{place}"], **attributes))
        value = f"v{place}"
    nodes.append(helper.make_node("Relu", [value], ["last"]))
    nodes += [helper.make_node("Neg", ["x"], [f"other{place}"]) for place in range(uses - 1)]
    kind = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])
    end = helper.make_tensor_value_info("last", TensorProto.FLOAT, ["n", 3, 4, 4])
    made = helper.make_graph(nodes, "g", [kind], [end], weights)
    return ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


@pytest.mark.parametrize("constants", [False, True])
@pytest.mark.parametrize(
    ("steps", "brightest"),
    [
        ([("Div", 255)], 255),
        ([("Mul", 1 / 255), ("Sub", MEAN), ("Div", STD)], 255),
        ([("Cast", None), ("Transpose", None), ("Div", 1), ("Div", 127.5), ("Sub", 1)], 255),
        ([("Sub", MEAN), ("Div", STD)], 1),
        ([("Add", np.negative(MEAN)), ("Mul", 1 / np.array(STD))], 1),
        ([("Div", [58.4, 57.1, 57.4])], None),
        ([("Sub", MEAN), ("Div", 255)], None),
        ([("Sub", 127.5), ("Div", 127.5)], 255),
        ([("Sub", [123.7, 116.3, 103.5]), ("Mul", [0.0171, 0.0175, 0.0174])], 255),
        ([("Sub", 127.5), ("Div", 0.5)], None),
        ([("Sub", 3000), ("Div", 255)], None),
        ([("Div", STD)], None),
        ([("Mul", 0)], None),
        ([("Exp", None), ("Div", 255)], None),
        ([], None),
    ],
)
def test_the_first_steps_show_the_unit(
    steps: list[tuple[str, object]], brightest: float | None, constants: bool
) -> None:
    assert brightest_pixel(graph(*steps, constants=constants).graph.inputs[0]) == brightest


def test_an_input_that_is_read_twice_shows_nothing() -> None:
    assert brightest_pixel(graph(("Div", 255), uses=2).graph.inputs[0]) is None


@pytest.mark.parametrize(
    ("steps", "how", "std"),
    [
        ([("Div", 255)], {"mean": 127.5, "std": 127.5}, 1),
        ([("Div", 255)], {"mean": 0, "std": 1}, None),
        ([("Sub", MEAN), ("Div", STD)], {"mean": 127.5, "std": 127.5}, 255),
        ([("Sub", MEAN), ("Div", STD)], {"mean": 0, "std": 255}, None),
        ([], {"mean": 127.5, "std": 127.5}, None),
    ],
)
def test_pixels_that_are_scaled_twice_are_warned_of(
    steps: list[tuple[str, object]], how: dict[str, float], std: float | None
) -> None:
    model = load(ir.to_proto(graph(*steps)).SerializeToString())
    found = list(_check_scaling("photos", Preprocess.model_validate({"size": 4, **how}), model))
    assert len(found) == (std is not None)
    assert std is None or found[0].startswith(own_scaling("photos", std))
