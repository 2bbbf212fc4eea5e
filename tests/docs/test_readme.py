"""Every command of the README runs, as it stands there, after the demo's inputs are built."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from examples.loans.build import FOLDER, build
from tests.docs.blocks import run

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
COMMANDS = {"two commands": "make demo", "the gate": "caveat gate"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder that has the examples and the demo's loans where the README says they are."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".venv").symlink_to(Path(sys.prefix))
    build(folder / FOLDER)
    return folder


def test_the_readme_has_these_blocks_and_no_other() -> None:
    assert len(BLOCKS) == len(COMMANDS)
    for block, marker in zip(BLOCKS, COMMANDS.values(), strict=True):
        assert marker in block


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make ([a-z-]+)", BLOCKS[0], re.MULTILINE)) <= set(targets)


def test_the_gate_block(place: Path) -> None:
    block = BLOCKS[1].replace(". .venv/bin/activate\n", "")
    output = run(block, place)
    assert "hidden1" in output
    assert "the gate is closed: 1" in output
    assert (place / "race.html").stat().st_size > 10_000
    assert "<testsuite" in (place / "race.xml").read_text()
