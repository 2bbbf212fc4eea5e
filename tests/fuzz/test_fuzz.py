"""A bounded number of fuzzed inputs for each target; `make fuzz` goes on for longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.needed import package

ROOT = Path(__file__).parents[2]
RUNS = {
    "model": 3000, "images": 5000, "arrays": 10_000, "table": 5000, "text": 5000, "tokenizer": 5000,
    "condition": 20_000, "document": 3000,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("target", RUNS)
def test_nothing_is_found(target: str, tmp_path: Path) -> None:
    package("atheris", "fuzz")
    command = [sys.executable, "-m", "tests.fuzz", target, f"-runs={RUNS[target]}", f"-artifact_prefix={tmp_path}/"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    said = ran.stdout + ran.stderr
    print(*[line for line in said.splitlines() if line.startswith("Done ")])
    assert ran.returncode == 0, said[-4000:]
