"""A report as OpenMetrics text: GitLab's metrics report shows in a merge request how each figure moved."""

from __future__ import annotations

from caveat_reports.samples import FAMILIES, samples
from caveat_spec.report import Report
from caveat_spec.sanitize import one_line


def render(report: Report) -> str:
    """Every family that has a sample, then the end mark."""
    found: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for family, labels, value in samples(report):
        named = ",".join(f'{name}="{_label(label)}"' for name, label in labels.items())
        found[family].append(f"{family}{{{named}}} {value!r}")
    text = [
        f"# TYPE {family} gauge\n# HELP {family} {FAMILIES[family]}\n" + "".join(f"{one}\n" for one in lines)
        for family, lines in found.items()
        if lines
    ]
    return "".join(text) + "# EOF\n"


def _label(text: str) -> str:
    return one_line(text).replace("\\", "\\\\").replace('"', '\\"')
