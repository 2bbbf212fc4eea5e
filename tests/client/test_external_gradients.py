"""A gradient graph on its way through HTTP, the queue and the sandboxed child: verified, or refused with figures."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from caveat import Client
from caveat.gradient import write_gradient
from caveat.problems import ProblemError
from caveat_spec.artifacts import NewModel, SuppliedGradient
from caveat_spec.audit import Scalar
from tests.client.models import write_audit

pytestmark = pytest.mark.xdist_group("up")


def test_a_model_is_registered_with_its_gradient(tmp_path: Path, service: str) -> None:
    write_audit(tmp_path)
    model, gradient = tmp_path / "mlp.onnx", tmp_path / "gradient.onnx"
    write_gradient(model, ["hidden"], ["1"], gradient)
    targets = {"1": Scalar(output="logits", index=1)}
    with Client(service) as client:
        blob = client.put(model)
        supplied = SuppliedGradient(blob=client.put(gradient), targets=targets)
        record = client.register_model(NewModel(blob=blob, gradient=supplied))
        assert record.inspection is not None
        assert [check.layer for check in record.inspection.gradient_checks] == ["hidden"]

        proto = onnx.load(str(gradient))
        weights = next(one for one in proto.graph.initializer if one.name == "w3")
        weights.CopyFrom(numpy_helper.from_array(1.1 * numpy_helper.to_array(weights), "w3"))
        onnx.save(proto, gradient)
        wrong = SuppliedGradient(blob=client.put(gradient), targets=targets)
        with pytest.raises(ProblemError, match=r"off finite differences of the model by 0\.\d+ of its size") as caught:
            client.register_model(NewModel(blob=blob, gradient=wrong))
        assert caught.value.problem.errors[0].pointer == "/gradient/blob"
        absent = SuppliedGradient(blob="sha256:" + "0" * 64, targets=targets)
        with pytest.raises(ProblemError) as caught:
            client.register_model(NewModel(blob=blob, gradient=absent))
        assert [fault.pointer for fault in caught.value.problem.errors] == ["/gradient/blob"]
