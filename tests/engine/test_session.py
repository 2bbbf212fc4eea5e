"""Opening a session has no side effects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
