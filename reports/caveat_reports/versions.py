"""Another version of the model beside the audited one, in the words that terminal, Markdown and the page share."""

from __future__ import annotations

from dataclasses import dataclass

from caveat_reports.formatting import count, fixed, percent, signed
from caveat_reports.summary import estimate_words, unit_of
from caveat_spec.report import Report
from caveat_spec.results import VersionAgreement, VersionComparison, VersionLayer

FOOLED = (
    "An edit that takes out what an audit looks at can fool the audit: the model may still rely on the concept along "
    "another direction, or in an earlier layer. Trust measured changes on examples that the edit never saw over the "
    "direction that was removed, and read what else moved."
)
EDITED = "before_edit"
"""The version that `caveat edit` compares with."""


@dataclass(frozen=True)
class ShownVersion:
    """Another version, as it is shown: sentences about what both decide, and a table of layers."""

    title: str
    model: str
    sentences: list[str]
    layers: list[list[str]]
    notes: list[str]


LAYER_HEAD = ("Layer", "CKA (debiased)", "Channels", "Matched", "Median correlation")


def shown_versions(report: Report) -> list[ShownVersion]:
    """Every version that the report compares with."""
    return [
        ShownVersion(
            title="Beside the model before the edit" if one.name == EDITED else f"Beside {one.name.replace('_', ' ')}",
            model=one.model,
            sentences=[_said(report, agreement) for agreement in one.agreements],
            layers=[_row(layer) for layer in one.layers],
            notes=[*one.notes, *_notes(one)],
        )
        for one in report.versions
    ]


def _said(report: Report, one: VersionAgreement) -> str:
    unit = unit_of(report, one.target)
    parts = [f"{one.target}, at {count(one.n)} examples of {one.examples}:"]
    if one.same_decision is not None:
        parts.append(f"the same decision at {estimate_words(one.same_decision, as_share=True)} of them;")
    low, high = one.change.interval
    parts.append(
        f"the mean moved by {signed(one.change.value)} {unit} [{signed(low)}, {signed(high)}], "
        f"{signed(one.change_in_sd)} sd, and single examples by {fixed(one.typical_change_in_sd)} sd"
    )
    if one.accuracy is not None and one.accuracy_other is not None:
        parts.append(
            f"; accuracy {estimate_words(one.accuracy, as_share=True)}, "
            f"in the other version {estimate_words(one.accuracy_other, as_share=True)}"
        )
    return " ".join(parts).replace(" ;", ";") + "."


def _row(one: VersionLayer) -> list[str]:
    return [
        one.layer if one.layer == one.other else f"{one.layer} ({one.other})",
        "–" if one.cka is None else fixed(one.cka, 3),
        count(one.channels) if one.channels else "–",
        "–" if one.matched is None else percent(one.matched),
        "–" if one.median_correlation is None else fixed(one.median_correlation),
    ]


def _notes(one: VersionComparison) -> list[str]:
    return [FOOLED] if one.name == EDITED else []
