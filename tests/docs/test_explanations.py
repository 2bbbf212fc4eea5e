"""The page of explanations lists those of the registry, and what was measured stands below."""

from __future__ import annotations

from bench.explain import MEASURED, PAGE, registry


def test_the_list_of_explanations_is_generated() -> None:
    page = PAGE.read_text()
    assert page.startswith(registry()), "Run `python -m bench.explain --registry`."
    assert MEASURED in page


def test_what_does_not_meet_its_tolerance_is_printed_so() -> None:
    """An error beyond its tolerance is in bold; there is none."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert not [line for line in lines if line.split(" | ")[3].startswith("**")]
