"""A command that was killed leaves its files until the next one begins, and takes nothing from those that run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.client.conftest import ROOT, Command
from tests.client.models import write_audit


@contextmanager
def long_audit(folder: Path, scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command whose job has its inputs."""
    before = set(scratch.glob("caveat-tmp-*/inputs/*"))
    gate = subprocess.Popen(
        [sys.executable, "-m", "caveat", "gate", "long.yaml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while len(set(scratch.glob("caveat-tmp-*/inputs/*")) - before) < 2:
            assert gate.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield gate
    finally:
        gate.kill()
        gate.wait()


def test_the_next_command_deletes_what_a_killed_one_left(tmp_path: Path, command: Command) -> None:
    path, scratch = write_audit(tmp_path), tmp_path / "scratch"
    scratch.mkdir()
    quick, long = "permutations: 199, bootstrap: 99", "permutations: 1000000, bootstrap: 200000"
    (tmp_path / "long.yaml").write_text(path.read_text().replace(quick, long))
    with long_audit(tmp_path, scratch) as other:
        living = set(scratch.iterdir())
        with long_audit(tmp_path, scratch) as gate:
            left = set(scratch.iterdir()) - living
            gate.send_signal(signal.SIGKILL)
            gate.wait()
        assert len(living) == len(left) == 2
        told = command("plan", "audit.yaml", TMPDIR=str(scratch))
        assert told.returncode == 0, told.stderr
        assert "left" not in told.stderr
        assert set(scratch.iterdir()) == living
        assert other.poll() is None
        other.send_signal(signal.SIGINT)
        assert other.wait(30) == 130
    assert list(scratch.iterdir()) == []
