"""ARCHITECTURE.md promises that an extension touches few files; each row is held against one that was added so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
FOLDERS = ("api_spec", "storage", "reports", "telemetry", "service", "worker", "client")

ADDED = {
    "a method": (r"group_comparison", ["worker/caveat_worker/engine/methods/group_comparison.py"]),
    "an explanation": (r"gradient_x_input", ["worker/caveat_worker/engine/explanations/gradient_x_input.py"]),
    "an operator's gradient": ('"Einsum"', ["worker/caveat_worker/engine/autodiff/rules/linear.py"]),
    "an estimator": (r'"logistic"', ["worker/caveat_worker/engine/concepts/cav.py"]),
    "a reader for a kind of examples": (r"open_texts", ["worker/caveat_worker/readers/texts.py"]),
    "a way to draw a figure": (r"caveat_reports\.figures\.bars", ["reports/caveat_reports/figures/bars.py"]),
    "a way to show a report": (r"openmetrics", ["reports/caveat_reports/openmetrics.py"]),
    "an annex": (r"sr-11-7", ["reports/caveat_reports/annexes/sr_11_7.py"]),
    "a rule of a verdict": (r"the estimators disagree", ["api_spec/caveat_spec/verdict/association.py"]),
    "an endpoint": (r"list_deliveries", ["service/caveat_service/webhooks.py"]),
}
"""Row of the table → a word that only this extension brings, and the file that it was written as."""


def rows() -> dict[str, list[str]]:
    """What the table promises: an extension → the files and folders that it touches."""
    table = PAGE[PAGE.index("| to add | touch |") :].split("\n\n")[0]
    found = {}
    for line in table.splitlines()[2:]:
        added, touched = (cell.strip() for cell in line.strip("|").split(" | ", 1))
        found[added] = re.findall(r"`([^`]+)`", touched)
    return found


def mentions(pattern: str) -> set[str]:
    """The files of the packages in which a word stands; generated ones aside."""
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {str(path.relative_to(ROOT)) for path in paths if re.search(pattern, path.read_text())}


def test_every_row_has_an_example() -> None:
    assert rows().keys() == ADDED.keys()


@pytest.mark.parametrize("added", ADDED)
def test_an_extension_touches_what_the_table_says(added: str) -> None:
    promised = rows()[added]
    for place in promised:
        assert (ROOT / place).exists(), f"{place} is not there"
    pattern, own = ADDED[added]
    touched = mentions(pattern)
    assert all((ROOT / place).exists() for place in own)
    stray = {file for file in touched if not any(file == place or file.startswith(place) for place in promised)}
    assert not stray, f"{added} also touched {', '.join(sorted(stray))}"
