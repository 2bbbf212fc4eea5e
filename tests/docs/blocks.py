"""Runs what stands in the blocks of a page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(block: str, folder: Path) -> str:
    """What a block prints, run by bash in a folder of its own, with the command and no settings of ours."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CAVEAT_") and name != "GITHUB_STEP_SUMMARY"
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
