"""What opening a session does beside opening it: nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os
from worker.engine.session import why_not
assert why_not("cpu") is None
print(len(os.listdir("/proc/self/task")))
"""


def test_onnx_runtime_tells_nobody_of_a_model(tmp_path: Path) -> None:
    """Its telemetry leaves an identifier in the home folder and a thread that sends, except where `CI` is set."""
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert list(tmp_path.rglob("*")) == []
    assert sys.platform != "linux" or ran.stdout.strip() == "1"
