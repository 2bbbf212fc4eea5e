"""The table of operators in the docs is the table of the code."""

from __future__ import annotations

from statistics import median

from bench.gradients import DOCS, operators
from worker.engine import differentiable_operators
from worker.engine.rules import LOWERED, VJP


def test_the_operators_page_is_generated() -> None:
    page = (DOCS / "operators.md").read_text()
    assert page == operators(), "Run `python -m bench.gradients --operators`."


def test_at_least_120_operators_of_the_standard_pass_a_gradient() -> None:
    passing = [
        name for domain, name, how in differentiable_operators() if domain == "ai.onnx" and how[:11] != "no gradient"
    ]
    assert len(passing) >= 120


def test_a_rule_reads_as_its_formula() -> None:
    import ast
    import inspect
    import textwrap

    lengths = []
    for rule in {*VJP.values(), *LOWERED.values()}:
        if rule.slope:
            lengths.append(1)
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(rule.function))).body[0]
        assert isinstance(tree, ast.FunctionDef)
        body = tree.body[1:] if ast.get_docstring(tree) else tree.body
        lengths.append((body[-1].end_lineno or 0) - body[0].lineno + 1)
    assert median(lengths) <= 6
    assert max(lengths) <= 25
