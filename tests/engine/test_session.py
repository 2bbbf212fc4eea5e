"""Opening a session has no side effects, and says what to do where it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.onnx.session import open_session

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os
from caveat_worker.engine.onnx.session import why_not
assert why_not("cpu") is None
print(len(os.listdir("/proc/self/task")))
"""


def test_onnx_runtime_sends_no_telemetry(tmp_path: Path) -> None:
    """Its telemetry leaves an identifier in the home folder and a thread that sends, except where `CI` is set."""
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert list(tmp_path.rglob("*")) == []
    assert sys.platform != "linux" or ran.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        (TensorProto.BFLOAT16, "in float32: for torch, after `model.float()`"),
        (TensorProto.DOUBLE, "in place of float64"),
    ],
)
def test_a_type_that_the_runtime_lacks_operators_for_is_named(kind: int, remedy: str) -> None:
    """There is no product of matrices for bfloat16 on a CPU, and no imputer for float64."""
    node = (
        helper.make_node("MatMul", ["x", "x"], ["y"])
        if kind == TensorProto.BFLOAT16
        else helper.make_node("Imputer", ["x"], ["y"], domain="ai.onnx.ml", imputed_value_floats=[0.0])
    )
    ends = [helper.make_tensor_value_info(name, kind, [2, 2]) for name in "xy"]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 1)]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    with pytest.raises(InvalidInput) as caught:
        open_session(Graph(ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))))
    assert caught.value.code == "model-does-not-run"
    assert remedy in caught.value.remedy
