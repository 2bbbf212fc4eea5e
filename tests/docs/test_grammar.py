"""The page of the grammar has every combination, and is what the models give when it is made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.grammar import DRAWN, PAGE, SHOWN, combinations, page, places, substrates
from caveat_spec.explanations import EXPLANATIONS


def test_every_method_is_there_at_all_its_atoms_in_every_presentation() -> None:
    parts = PAGE.read_text().split("\n## ")[1:]
    asked = [(f"`{entry.name}`", kind) for entry in EXPLANATIONS for _, kind in places(entry)]
    for part in parts:
        rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| `")]
        assert len(rows) == len(asked)
        for row, (name, kind) in zip(rows, asked, strict=True):
            assert row[0] == name
            assert kind in (None, row[1])
            assert len(row) == 2 + len(SHOWN)
        letters = {line[4:].partition("**")[0] for line in part.splitlines() if line.startswith("- **")}
        assert {cell for row in rows for cell in row[2:]} <= {DRAWN, "–", *letters}


def test_every_presentation_is_drawn_somewhere() -> None:
    rows = [line.strip("| ").split(" | ")[2:] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    tables = [row for row in rows if len(row) == len(SHOWN)]
    for column, shown in enumerate(SHOWN):
        assert DRAWN in {row[column] for row in tables}, shown


@pytest.mark.slow
def test_made_again_it_says_the_same(tmp_path: Path) -> None:
    assert page({one.title: combinations(one) for one in substrates(tmp_path)}) == PAGE.read_text()
