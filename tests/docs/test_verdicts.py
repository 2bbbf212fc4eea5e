"""The table of rules in docs/method.md is that of the gate; `REGENERATE_GOLDENS=1` writes it anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

from caveat_spec.verdict.association import ASSOCIATION
from caveat_spec.verdict.intervention import INTERVENTION, TOGETHER

PAGE = Path(__file__).parents[2] / "docs" / "method.md"
TABLES = {
    "**Association**, where nothing was measured": ASSOCIATION,
    "**The measured change** of matched pairs": INTERVENTION,
    "**Both**, where a change was measured, or a line requires both": TOGETHER,
}


def table() -> str:
    rows = ["| the first that applies | finding |", "| --- | --- |"]
    for title, rules in TABLES.items():
        rows.append(f"| {title} | |")
        rows += [f"| {rule.name} | {rule.finding.replace('_', ' ')} |" for rule in rules]
    return "\n".join(rows)


def test_the_table_of_rules_is_the_gates() -> None:
    page = PAGE.read_text()
    expected = re.sub(
        r"(<!-- verdicts: .*?-->\n).*?(<!-- /verdicts -->)", rf"\g<1>{table()}\n\g<2>", page, flags=re.DOTALL
    )
    if os.environ.get("REGENERATE_GOLDENS"):
        PAGE.write_text(expected)
    assert PAGE.read_text() == expected
