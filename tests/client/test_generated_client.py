"""The synchronous client is the asynchronous one without `async` and `await`, and nothing else."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from caveat import AsyncClient, Client
from tests.client.conftest import ROOT

GENERATE = ROOT / "tools" / "generate_client.py"


def check(script: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)


def test_it_is_what_the_generator_makes() -> None:
    done = check(GENERATE)
    assert done.returncode == 0, done.stderr


def test_a_change_by_hand_is_noticed(tmp_path: Path) -> None:
    script, package = tmp_path / "tools" / "generate.py", tmp_path / "client" / "caveat"
    for folder in (script.parent, package):
        folder.mkdir(parents=True)
    script.write_text(GENERATE.read_text())
    for name in ("async_client.py", "client.py"):
        (package / name).write_text((ROOT / "client" / "caveat" / name).read_text())
    changed = package / "client.py"
    changed.write_text(changed.read_text().replace("Ask an audit to stop", "Stop an audit"))
    done = check(script)
    assert done.returncode == 1
    assert "run `make generate`" in done.stderr


def test_both_have_the_same_methods() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(one).parameters) for name, one in methods if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)
    assert inspect.signature(Client.audits).return_annotation.startswith(Iterator.__name__)
    assert inspect.signature(AsyncClient.audits).return_annotation.startswith(AsyncIterator.__name__)
