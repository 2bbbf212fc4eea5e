"""A folder with an audit in it, and the command as a person runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from stamina.instrumentation import set_on_retry_hooks

from caveat_storage import keyring

ROOT = Path(__file__).parents[2]

AUDIT = """\
model: model.onnx
examples:
  photos: {images: photos/, preprocess: &p {size: 8}}
  marked: {images: marked/, preprocess: *p, pairs_with: photos}
concepts:
  mark: {examples: marked, against: photos}
targets:
  carton: {index: 1, examples: photos}
gate:
  - concept: mark
    target: carton
    must: not_matter
"""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CAVEAT_URL", "CAVEAT_KEY", "CAVEAT_SIGNING_KEY", "CI_JOB_URL", "BUILD_URL", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _retry_hooks() -> Iterator[None]:
    """The command tells of retries by a hook that belongs to its process; here the process is everybody's."""
    yield
    set_on_retry_hooks(None)


@pytest.fixture
def audit_file(tmp_path: Path) -> Path:
    """An audit whose files are there, though the model is only bytes."""
    (tmp_path / "model.onnx").write_bytes(b"not really a model")
    for folder, shade in (("photos", 10), ("marked", 200)):
        (tmp_path / folder).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 8), (shade, number, 0)).save(tmp_path / folder / f"{number}.png")
    path = tmp_path / "audit.yaml"
    path.write_text(AUDIT)
    return path


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """`caveat …` in a process of its own, in the test's folder."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "caveat", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@contextmanager
def started(folder: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`caveat up` in `folder`, and its URL once it says that it is up."""
    process = subprocess.Popen(
        [sys.executable, "-m", "caveat", "up", "--port", "0", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"is up at (\S+)", line):
                yield process, found[1]
                return
        raise AssertionError(said)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)  # four times what `caveat up` gives its parts, for a busy machine
        process.stdout.close()


@pytest.fixture(scope="session")
def service_keys() -> keyring.Pair:
    """What the running service signs with."""
    return keyring.make()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, service_keys: keyring.Pair) -> Iterator[str]:
    """A running service's URL; the path of its key is relative to where it was started."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "signing").mkdir()
    (folder / "signing" / "service.pem").write_text(service_keys.private)
    with started(folder, CAVEAT_SIGNING_KEY="signing") as (_, url):
        yield url
