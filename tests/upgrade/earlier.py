"""An earlier release: its code, from this repository's history, and what it stored, from a file beside this one.

`python -m tests.upgrade.earlier` makes that file: the earlier code runs its whole service, audits the chart's model,
and leaves its database and its blobs. There is no tag yet, so the release is the last commit with schema 0006; take the
tag once there is one.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

RELEASE = "240a98630e88"
ROOT = Path(__file__).parents[2]
STORED = Path(__file__).with_name("stored.tar.gz")
PACKAGES = ("api_spec", "storage", "reports", "telemetry", "service", "worker", "client")


def code(folder: Path) -> Path:
    """Lays the code of the release out in a folder; raises `CalledProcessError` where its history is missing."""
    archive = subprocess.run(["git", "archive", RELEASE], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as tree:
        tree.extractall(folder)
    return folder


def environment(tree: Path) -> dict[str, str]:
    """The environment in which Python imports a tree's code instead of what is installed."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(tree / package) for package in PACKAGES)}


def unpack(folder: Path) -> Path:
    """Unpacks what the release stored: `caveat.db`, `blobs/` and the report that it served."""
    with tarfile.open(STORED) as stored:
        stored.extractall(folder)
    return folder


@contextmanager
def up(tree: Path, data: Path) -> Iterator[str]:
    """Runs `caveat up` of a tree; yields its URL."""
    command = [sys.executable, "-m", "caveat", "up", "--port", "0", "--data", str(data)]
    with (data.parent / "up.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment(tree), cwd=data.parent, stdout=log, stderr=log)
        try:
            state, deadline = data / "up.json", time.monotonic() + 120
            while not state.exists():
                assert process.poll() is None, (data.parent / "up.log").read_text()
                assert time.monotonic() < deadline, "the service is not ready"
                time.sleep(0.2)
            yield str(json.loads(state.read_text())["url"])
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def gate(tree: Path, url: str) -> None:
    """Runs the chart's audit of a tree through a service."""
    audit = tree / "helm" / "caveat" / "files" / "audit" / "audit.yaml"
    command = [sys.executable, "-m", "caveat", "gate", str(audit), "--url", url]
    ran = subprocess.run(command, env=environment(tree), cwd=tree, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def make() -> None:
    """Lets the release store an audit and packs what it stored."""
    with tempfile.TemporaryDirectory() as name:
        tree, data = code(Path(name) / "tree"), Path(name) / "data"
        data.mkdir()
        with up(tree, data) as url:
            gate(tree, url)
        with sqlite3.connect(data / "caveat.db") as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with tarfile.open(STORED, "w:gz") as stored:
            for part in ("caveat.db", "blobs"):
                stored.add(data / part, part)


if __name__ == "__main__":
    make()
