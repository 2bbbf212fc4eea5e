"""The page about the command cannot lie: its help is the command's own, and its Python runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from caveat.cli import cli
from tests.client.conftest import ROOT
from tests.client.models import write_audit

PAGE = ROOT / "docs" / "command.md"
MARK = "do not edit below. -->\n"


def help_of(*command: str) -> str:
    arguments = [*command, "--help"]
    told = CliRunner().invoke(cli, arguments, prog_name="caveat", terminal_width=100).output
    return f"```text\n$ caveat {' '.join(arguments)}\n{told}```\n"


def commands(group: click.Group, *path: str) -> Iterator[list[str]]:
    """Every command there is, and those of its own."""
    context = click.Context(group)
    for name in sorted(group.list_commands(context)):
        command = group.get_command(context, name)
        yield [*path, name]
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


def test_the_help_in_the_page_is_the_commands_own() -> None:
    before, mark, there = PAGE.read_text().partition(MARK)
    assert isinstance(cli, click.Group)
    wanted = "".join(f"\n{help_of(*command)}" for command in [[], *commands(cli)])
    if os.environ.get("REGENERATE_GOLDENS"):
        PAGE.write_text(before + mark + wanted)
        there = wanted
    assert there == wanted, "run `REGENERATE_GOLDENS=1 pytest tests/client/test_docs.py`"


@pytest.mark.xdist_group("up")
def test_the_python_in_the_page_runs(
    tmp_path: Path, service: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert found is not None
    write_audit(tmp_path)
    monkeypatch.chdir(tmp_path)
    script = found[1].replace("http://127.0.0.1:8000", service)
    exec(compile(script, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == "fail\n"
