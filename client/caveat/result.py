"""What an audit from Python came to: the report, shown in a notebook, as a frame, as a figure or in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from caveat.installation import require
from caveat.maps import Maps
from caveat.outputs import rendered, write
from caveat.problems import problem
from caveat_reports import summary
from caveat_spec.formats import FORMATS
from caveat_spec.report import Outcome, Report

if TYPE_CHECKING:
    import pandas as pd

Part = Literal["tests", "groups", "gate"]
SUFFIXES = {".json": "json", ".html": "html", ".md": "markdown", ".xml": "junit", ".sarif": "sarif"}
"""The format that a file's suffix asks for."""
FRAME_HEIGHT = 640
"""Pixels that a notebook gives to the page."""


@dataclass(frozen=True)
class AuditResult:
    """The report of an audit, and ways to look at it."""

    report: Report
    canonical: bytes = field(repr=False)
    """The report's canonical JSON, which its digest and its signature are of."""
    maps: Maps | None = field(default=None, repr=False)
    """Every number of the report's figures, of an audit with `keep="maps"`."""

    @property
    def outcome(self) -> Outcome | None:
        """What the gate came to; None where the audit has none."""
        return self.report.verdict.outcome

    @property
    def passes(self) -> bool | None:
        """Whether every line of the gate passes; False also where one is inconclusive, None without a gate."""
        return None if self.outcome is None else self.outcome == "pass"

    def __repr__(self) -> str:
        return f"<AuditResult: {summary.headline(self.report)}. {summary.explanation(self.report)}>"

    def __str__(self) -> str:
        return self.explain()

    def _repr_html_(self) -> str:
        page = escape(rendered(self.report, "html", None, None), quote=True)
        style = f"width:100%;height:{FRAME_HEIGHT}px;border:1px solid #8884;border-radius:4px"
        return f'<iframe sandbox title="{escape(repr(self))}" style="{style}" srcdoc="{page}"></iframe>'

    def explain(self) -> str:
        """The verdict in sentences: each line of the gate, what to do next, then what was measured and warnings."""
        report = self.report
        said = [f"{summary.headline(report)}: {summary.explanation(report)}"]
        said += [sentence for line in summary.worst_first(report) for sentence in _line(line)]
        for pair in summary.pairs(report):
            if pair.intervention is not None:
                said += summary.intervention_sentences(pair.intervention, summary.unit_of(report, pair.target))
            said += pair.notes
        return "\n".join([*said, *(f"Warning: {warning}" for warning in report.warnings)])

    def to_frame(self, part: Part = "tests") -> pd.DataFrame:
        """The figures as a data frame: a row for each concept test, each group, or each line of the gate."""
        require("A data frame", ("pandas",), "tables")
        import pandas as pd

        rows = {"tests": _tests, "groups": _groups, "gate": _gate}[part](self.report)
        return pd.DataFrame(rows)

    def plot(self, ax: Any = None) -> Any:
        """Draws each effect in sd with its interval, on matplotlib axes `ax` or new ones, which it returns."""
        try:
            from matplotlib import pyplot
        except ImportError:
            raise problem(
                "no-matplotlib",
                422,
                "To plot an audit, the package matplotlib is needed.",
                "Run `pip install 'caveat[plot]'`, or use save('report.html'), whose charts need no package.",
            ) from None
        tests = self.report.tests[::-1]
        if ax is None:
            _, ax = pyplot.subplots(figsize=(7, 1 + 0.35 * max(len(tests), 1)), layout="constrained")
        for row, test in enumerate(tests):
            low, high = test.effect.interval_in_sd
            hollow = test.blocked
            ax.plot([low, high], [row, row], color="0.4", linewidth=2, solid_capstyle="butt")
            ax.plot(test.effect.in_sd, row, "o", color="C0", markerfacecolor="white" if hollow else "C0")
        ax.axvline(0, color="0.7", linewidth=1, zorder=0)
        ax.set_yticks(range(len(tests)), [f"{test.concept} → {test.target}, {test.place}" for test in tests])
        ax.set_xlabel("effect, in standard deviations of the target; hollow: may not decide")
        return ax

    def log_to(self, tracker: str) -> str:
        """Logs the report to an experiment tracker (`mlflow` or `wandb`) as a run of its own; says where.

        Below the run that is active there is one. Raises `caveat.ProblemError` where it could not be logged.
        """
        from caveat.trackers.log_report import log_report

        return log_report(tracker, self.report, self.canonical)

    def save(self, path: str | Path) -> Path:
        """Writes the report as .json, .html, .md (Markdown), .xml (JUnit) or .sarif; returns the path."""
        path = Path(path)
        if path.suffix not in SUFFIXES:
            known = ", ".join(f"{suffix} ({_words(name)})" for suffix, name in SUFFIXES.items())
            raise problem("unknown-format", 422, f"'{path.suffix}' is no format of a report.", f"Use one of: {known}.")
        name = SUFFIXES[path.suffix]
        content = self.canonical if name == "json" else rendered(self.report, name, None, None).encode()
        write(path, content, name)
        return path


def _line(line: summary.Line) -> list[str]:
    """A line of the gate as the first screen of a report says it: decisions first, and what to do next last."""
    told = " ".join(filter(None, (line.people, line.reason, line.decided_by)))
    steps = [f"  {number}. {step}" for number, step in enumerate(line.next_steps, 1)]
    return [
        f"{summary.OUTCOME_SIGN[line.outcome]} {line.subject}: {told}",
        *(["  What to do next:"] if steps else []),
        *steps,
    ]


def _words(name: str) -> str:
    return next(form.words for form in FORMATS if form.name == name)


def _tests(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "concept": test.concept,
            "target": test.target,
            "layer": test.layer,
            "evidence": test.evidence,
            "effect": test.effect.value,
            "low": test.effect.interval[0],
            "high": test.effect.interval[1],
            "effect_in_sd": test.effect.in_sd,
            "low_in_sd": test.effect.interval_in_sd[0],
            "high_in_sd": test.effect.interval_in_sd[1],
            "p": test.effect.deciding_p,
            "score": None if test.score is None else test.score.value,
            "accuracy": None if test.accuracy is None else test.accuracy.held_out,
            "flags": [flag.code for flag in test.flags],
        }
        for test in report.tests
    ]


def _groups(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "comparison": one.name,
            "group": row.group,
            "n": row.n,
            "selection_rate": row.selection_rate.value,
            "low": row.selection_rate.interval[0],
            "high": row.selection_rate.interval[1],
            "true_positive_rate": None if row.true_positive_rate is None else row.true_positive_rate.value,
            "false_positive_rate": None if row.false_positive_rate is None else row.false_positive_rate.value,
            "small": row.small,
        }
        for one in report.comparisons
        for row in one.rows
    ]


def _gate(report: Report) -> list[dict[str, Any]]:
    return [
        {"line": line.subject, "outcome": line.outcome, "finding": line.finding, "reason": line.explanation}
        for line in report.verdict.lines
    ]
