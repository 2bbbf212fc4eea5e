"""Shells get a script that completes commands and options, by the lines that the page about installing has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.conftest import ROOT

PAGE = (ROOT / "docs" / "how-to" / "install.md").read_text()
LINES = dict(re.findall(r"^\| (bash|zsh|fish) .*?_CAVEAT_COMPLETE=(\w+)", PAGE, re.MULTILINE))
CAVEAT = Path(sys.executable).with_name("caveat")


def complete(**environment: str) -> str:
    """What `caveat` prints for a shell."""
    done = subprocess.run([CAVEAT], env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed_and_names_the_command(shell: str) -> None:
    script = complete(_CAVEAT_COMPLETE=LINES[shell])
    assert "_CAVEAT_COMPLETE" in script
    assert re.search(r"(complete|compdef).* caveat", script)


def test_commands_and_options_are_completed() -> None:
    commands = complete(_CAVEAT_COMPLETE="bash_complete", COMP_WORDS="caveat ga", COMP_CWORD="1")
    assert commands.split() == ["plain,gate"]
    options = complete(_CAVEAT_COMPLETE="bash_complete", COMP_WORDS="caveat gate --inc", COMP_CWORD="2")
    assert options.split() == ["plain,--inconclusive"]
