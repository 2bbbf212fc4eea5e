"""A report as OpenMetrics text: GitLab's metrics report shows in a merge request how each figure moved."""

from __future__ import annotations

from collections.abc import Iterator

from caveat_spec.report import Report
from caveat_spec.sanitize import one_line

FAMILIES = {
    "caveat_effect_sd": "Change of the target for one step to the concept, in standard deviations of the target.",
    "caveat_score": "TCAV score.",
    "caveat_intervention_sd": "Measured change of the target, in standard deviations of the target.",
    "caveat_intervention_probability": "Measured change of the target's probability.",
    "caveat_intervention_decisions": "Share of decisions that flip.",
    "caveat_group_metric": "Group metric.",
    "caveat_group_metric_low": "Lower end of a group metric's interval.",
    "caveat_group_metric_high": "Upper end of a group metric's interval.",
    "caveat_selection_rate": "Share of favourable decisions.",
    "caveat_group_people": "People in a group.",
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
    for test in report.associations:
        labels = {"concept": test.concept, "target": test.target, "layer": test.place}
        yield "caveat_effect_sd", labels, test.effect.in_sd
        if test.score is not None:
            yield "caveat_score", labels, test.score.value
    for intervention in report.interventions:
        labels, effect = {"concept": intervention.concept, "target": intervention.target}, intervention.effect
        yield "caveat_intervention_sd", labels, effect.in_sd
        if effect.in_probability is not None:
            yield "caveat_intervention_probability", labels, effect.in_probability.value
        if effect.in_decisions is not None:
            yield "caveat_intervention_decisions", labels, effect.in_decisions.value
    for group in report.comparisons:
        for name, estimate in group.metrics.items():
            labels = {"group": group.name, "metric": name}
            yield "caveat_group_metric", labels, estimate.value
            yield "caveat_group_metric_low", labels, estimate.interval[0]
            yield "caveat_group_metric_high", labels, estimate.interval[1]
        for people in group.rows:
            labels = {"group": group.name, "people": people.group}
            yield "caveat_selection_rate", labels, people.selection_rate.value
            yield "caveat_group_people", labels, float(people.n)
    for line in report.verdict.lines:
        yield "caveat_line_holds", {"line": str(line.line), "subject": line.subject}, float(line.outcome == "pass")


def _label(text: str) -> str:
    return one_line(text).replace("\\", "\\\\").replace('"', '\\"')
