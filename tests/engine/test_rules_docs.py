"""The table of operators in the docs is the table of the code."""

from __future__ import annotations

from statistics import median

from bench.gradients import DOCS, code_lines, operators, rule_lengths
from caveat_worker.engine.autodiff.rules import differentiable_operators


def test_the_operators_page_is_generated() -> None:
    page = (DOCS / "operators.md").read_text()
    assert page == operators(), "Run `python -m bench.gradients --operators`."


def test_at_least_120_operators_of_the_standard_pass_a_gradient() -> None:
    passing = [
        name for domain, name, how in differentiable_operators() if domain == "ai.onnx" and how[:11] != "no gradient"
    ]
    assert len(passing) >= 120


def test_a_rule_reads_as_its_formula_and_the_package_stays_small() -> None:
    assert median(rule_lengths()) <= 6
    assert max(rule_lengths()) <= 25
    assert code_lines() < 2900
