"""A report as OpenMetrics text: GitLab's metrics report shows in a merge request how each figure moved."""

from __future__ import annotations

from collections.abc import Iterator

from api_spec.report import Report
from reports.visible import visible

FAMILIES = {
    "caveat_effect_sd": "Change of the target for one step to the concept, in standard deviations of the target.",
    "caveat_score": "TCAV score.",
    "caveat_intervention_sd": "Measured change of the target, in standard deviations of the target.",
    "caveat_group_metric": "Group metric.",
    "caveat_selection_rate": "Share of favourable decisions.",
    "caveat_line_holds": "1 where a line of the gate holds, 0 where it does not or could not be settled.",
}


def render(report: Report) -> str:
    """Every family that has a sample, then the end mark."""
    samples: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for family, labels, value in _samples(report):
        named = ",".join(f'{name}="{_label(label)}"' for name, label in labels.items())
        samples[family].append(f"{family}{{{named}}} {value!r}")
    text = [
        f"# TYPE {family} gauge\n# HELP {family} {FAMILIES[family]}\n" + "".join(f"{one}\n" for one in found)
        for family, found in samples.items()
        if found
    ]
    return "".join(text) + "# EOF\n"


def _samples(report: Report) -> Iterator[tuple[str, dict[str, str], float]]:
    for row in report.rows:
        labels = {"concept": row.concept, "target": row.target, "layer": row.layer}
        yield "caveat_effect_sd", labels, row.effect.in_sd
        yield "caveat_score", labels, row.score.value
    for witness in report.interventions:
        yield (
            "caveat_intervention_sd",
            {"concept": witness.concept, "target": witness.target},
            witness.change_in_sd,
        )
    for group in report.groups:
        for name, estimate in group.metrics.items():
            yield "caveat_group_metric", {"group": group.name, "metric": name}, estimate.value
        for people in group.rows:
            yield "caveat_selection_rate", {"group": group.name, "people": people.group}, people.selection_rate.value
    for line in report.verdict.lines:
        yield "caveat_line_holds", {"line": str(line.line), "subject": line.subject}, float(line.outcome == "pass")


def _label(text: str) -> str:
    return visible(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
