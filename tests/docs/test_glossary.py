"""The glossary has every word that reports explain: in order, one plain sentence each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from caveat_reports.glossary import GLOSSARY

ROOT = Path(__file__).parents[2]
ENTRIES = dict(re.findall(r"^## (.+)\n\n((?:.+\n)+)", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE))


def test_entries_are_in_alphabetical_order() -> None:
    assert list(ENTRIES) == sorted(ENTRIES, key=str.casefold)


@pytest.mark.parametrize("term", ENTRIES)
def test_an_entry_is_one_sentence_without_a_formula(term: str) -> None:
    text = ENTRIES[term].strip()
    assert text.endswith(".")
    assert not re.search(r"\.\s+[A-Z]", text)
    assert not re.search(r"[=∇Σμ`]", text)


@pytest.mark.parametrize("term", GLOSSARY)
def test_a_word_that_a_report_explains_is_in_the_glossary(term: str) -> None:
    assert " ".join(ENTRIES[term].replace("*", "").split()) == GLOSSARY[term]
