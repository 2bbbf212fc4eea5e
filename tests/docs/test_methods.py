"""The table of methods in docs/command.md is the registry's; `REGENERATE_GOLDENS=1` writes it anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

from caveat_spec.methods import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "command.md"
ASKED_BY = {"concepts": "`concepts`", "pairs": "`pairs_with`", "groups": "`groups`", None: "`methods`"}


def table() -> str:
    rows = [f"| `{entry.name}` | {entry.summary} | {ASKED_BY[entry.implied_by]} |" for entry in METHODS]
    return "\n".join(["| method | what it answers | asked for by |", "| --- | --- | --- |", *rows])


def test_the_table_of_methods_is_the_registrys() -> None:
    page = PAGE.read_text()
    expected = re.sub(
        r"(<!-- methods: .*?-->\n).*?(<!-- /methods -->)", rf"\g<1>{table()}\n\g<2>", page, flags=re.DOTALL
    )
    if os.environ.get("REGENERATE_GOLDENS"):
        PAGE.write_text(expected)
    assert PAGE.read_text() == expected
