"""Audits as assertions, for a test suite: `assert_passes` for a whole gate, `assert_concept` for one line of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from caveat.auditing import audit
from caveat.result import AuditResult

WhenInconclusive = Literal["fail", "pass"]


def assert_passes(result: AuditResult, *, when_inconclusive: WhenInconclusive = "fail") -> AuditResult:
    """Raises `AssertionError`, which says why, unless every line of an audit's gate passes; returns the result."""
    __tracebackhide__ = True  # pytest shows the test's own line
    accepted = ("pass", "inconclusive") if when_inconclusive == "pass" else ("pass",)
    if result.outcome is None:
        raise AssertionError("The audit has no gate, so that nothing can pass: give it lines, as `gate=[...]`.")
    if result.outcome not in accepted:
        raise AssertionError(result.explain())
    return result


def assert_concept(
    model: Any,
    *,
    must: Literal["not_matter", "matter"],
    concept: Mapping[str, Any],
    target: Mapping[str, Any],
    examples: Mapping[str, Any],
    name: str = "concept",
    tolerance: float | None = None,
    when_inconclusive: WhenInconclusive = "fail",
    line: Mapping[str, Any] | None = None,
    **fields: Any,
) -> AuditResult:
    """Raises `AssertionError`, which says why, unless a concept matters to a target, or does not; returns the result.

    `concept` and `target` are as in an audit file, `line` has further fields of the gate's line, such as `unit`, and
    all else is as `caveat.audit` takes it. Raises `caveat.ProblemError` where the audit cannot be run.
    """
    __tracebackhide__ = True
    asked = {"concept": name, "target": "target", "must": must, **(line or {})}
    if tolerance is not None:
        asked["tolerance"] = tolerance
    result = audit(
        model, examples=examples, concepts={name: concept}, targets={"target": target}, gate=[asked], **fields
    )
    return assert_passes(result, when_inconclusive=when_inconclusive)
