"""Audits of graphs as people have them: inputs that nothing feeds, and probabilities by another way than a softmax."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from caveat_worker.engine.base.errors import InvalidInput
from tests.audits.conftest import Bench


def with_a_rate(bench: Bench) -> None:
    """The small network multiplied by an input that no example has."""
    model = onnx.load(bench.folder / "model.onnx")
    model.graph.input.append(helper.make_tensor_value_info("rate", TensorProto.FLOAT, []))
    model.graph.node[4].output[0] = "unscaled"
    model.graph.node.insert(5, helper.make_node("Mul", ["unscaled", "rate"], ["logits"]))
    onnx.save(model, bench.folder / "model.onnx")


def test_an_input_that_no_example_feeds_holds_the_number_of_the_audit(bench: Bench) -> None:
    plain = bench.run().associations[0].effect
    with_a_rate(bench)
    bench.document["constants"] = {"rate": 2.0}
    doubled = bench.run().associations[0].effect
    assert doubled.value == pytest.approx(2 * plain.value, rel=1e-4)
    bench.document["constants"] = {"rate": 1.0}
    assert bench.run().associations[0].effect.value == pytest.approx(plain.value, rel=1e-4)


def test_an_input_that_nothing_feeds_is_refused_with_what_can_be_done(bench: Bench) -> None:
    with_a_rate(bench)
    with pytest.raises(InvalidInput, match="'rate'") as caught:
        bench.run()
    assert "`constants: {rate: ...}`" in caught.value.remedy


def test_an_effect_does_not_depend_on_what_else_is_in_the_batch(bench: Bench) -> None:
    """Nine tenths of the batch's mean are subtracted: of an example alone that leaves a tenth, and its effect in sd."""
    plain = bench.run().associations[0].effect
    model = onnx.load(bench.folder / "model.onnx")
    constants = {"tenths": np.float32(0.9), "axis": np.array([0])}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    model.graph.node[4].output[0] = "whole"
    for node in (
        helper.make_node("Sub", ["whole", "most"], ["logits"]),
        helper.make_node("Mul", ["mean", "tenths"], ["most"]),
        helper.make_node("ReduceMean", ["whole", "axis"], ["mean"]),
    ):
        model.graph.node.insert(5, node)
    onnx.save(model, bench.folder / "model.onnx")
    report = bench.run()
    assert any("so each goes through the model alone" in one for one in report.warnings)
    assert report.associations[0].effect.in_sd == pytest.approx(plain.in_sd, rel=1e-3)


def test_probabilities_by_another_way_than_a_softmax_are_said(bench: Bench) -> None:
    model = onnx.load(bench.folder / "model.onnx")
    del model.graph.node[5]
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
    model.graph.node.extend(
        [
            helper.make_node("Mul", ["logits", "logits"], ["squares"]),
            helper.make_node("ReduceSum", ["squares", "axis"], ["total"]),
            helper.make_node("Div", ["squares", "total"], ["probabilities"]),
        ]
    )
    onnx.save(model, bench.folder / "model.onnx")
    warnings = " ".join(bench.run().warnings)
    assert "The scores of target 'first', tensor 'probabilities', look like probabilities" in warnings


def test_logits_are_not_taken_for_probabilities(bench: Bench) -> None:
    assert bench.run().warnings == []
