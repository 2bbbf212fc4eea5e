"""Annexes, held against the published forms: field by field, and with the figures of the examples that they print.

The examples are those of § 5-301 of title 6 of the Rules of the City of New York: one of selections, one of scores.
They print impact ratios with two or three digits, some from rates that were rounded first: one hundredth is their
precision.
"""

from __future__ import annotations

import csv as csv_reader
import math
import re
from io import StringIO

import html5lib
import pytest
from scipy.stats import fisher_exact, hypergeom

from caveat_reports import console
from caveat_reports.annexes import csv, fill, html, ll144
from caveat_reports.annexes.adverse_impact import Group, fisher, holm, impacts
from caveat_reports.annexes.form import Annex, Material, Signature, Table, UnknownFieldError
from caveat_spec.annexes import ANNEXES, AnnexKind
from caveat_spec.attestation import Run
from caveat_spec.audit import Audit
from caveat_spec.filing import Columns, Filing
from caveat_spec.report import ExampleSetSummary, PlanSummary, Report, Verdict
from caveat_spec.results import Comparison, Estimate, GroupRow
from tests.api_spec import handmade
from tests.reports.conftest import ENGINE, digest

KINDS: list[AnnexKind] = [row.kind for row in ANNEXES]
H, NOT_H = "Hispanic or Latino", "Not Hispanic or Latino"
SEX = {"Male": (1390, 667, 1.0), "Female": (1181, 555, 0.979)}
RACE = {
    H: (408, 204, 0.97),
    "White": (797, 412, 1.0),
    "Black or African American": (390, 170, 0.84),
    "Native Hawaiian or Pacific Islander": (119, 52, 0.85),
    "Asian": (616, 302, 0.95),
    "Native American or Alaska Native": (41, 18, 0.85),
    "Two or More Races": (213, 96, 0.87),
}
BOTH = {
    ("Male", H): (205, 90, 0.841),
    ("Female", H): (190, 82, 0.827),
    ("Male", "White"): (412, 215, 1.0),
    ("Male", "Black or African American"): (226, 95, 0.806),
    ("Male", "Native Hawaiian or Pacific Islander"): (87, 37, 0.815),
    ("Male", "Asian"): (321, 167, 0.997),
    ("Male", "Native American or Alaska Native"): (24, 11, 0.878),
    ("Male", "Two or More Races"): (115, 52, 0.866),
    ("Female", "White"): (385, 197, 0.981),
    ("Female", "Black or African American"): (164, 75, 0.876),
    ("Female", "Native Hawaiian or Pacific Islander"): (32, 15, 0.898),
    ("Female", "Asian"): (295, 135, 0.877),
    ("Female", "Native American or Alaska Native"): (17, 7, 0.789),
    ("Female", "Two or More Races"): (98, 44, 0.860),
}
SCORED_SEX = {"Male": (92, 50, 1.0), "Female": (76, 34, 0.82)}
SCORED_RACE = {
    H: (28, 18, 1.0),
    "White": (40, 15, 0.58),
    "Black or African American": (32, 16, 0.78),
    "Native Hawaiian or Pacific Islander": (8, 5, 0.97),
    "Asian": (24, 10, 0.65),
    "Native American or Alaska Native": (16, 10, 0.97),
    "Two or More Races": (20, 10, 0.78),
}


def comparison(
    name: str, sensitive: list[str], counts: dict[tuple[str, ...], tuple[int, int]], **more: object
) -> Comparison:
    rows = [
        GroupRow(
            group=" and ".join(f"{column}={value}" for column, value in zip(sensitive, values, strict=True)),
            values=list(values),
            n=people,
            selected=selected,
            selection_rate=Estimate(value=float(f"{selected / people:.6g}"), interval=(0, 1)),
            true_positive_rate=None,
            false_positive_rate=None,
            small=people < 30,
        )
        for values, (people, selected) in counts.items()
    ]
    return Comparison.model_validate(
        {
            "method": "group_comparison", "name": name, "decisions": "the recorded decisions (invited)",
            "sensitive": sensitive, "rows": rows, "metrics": {}, **more,
        }
    )  # fmt: skip


def single(published: dict[str, tuple[int, int, float]]) -> dict[tuple[str, ...], tuple[int, int]]:
    return {(name,): (people, selected) for name, (people, selected, _) in published.items()}


def of(comparisons: list[Comparison], **source: object) -> Report:
    audit = {
        "model": digest("resumes"),
        "examples": {"applicants": {"table": digest("applicants"), "features": ["years"]}},
        "groups": {
            one.name: {"examples": "applicants", "sensitive": one.sensitive, **(source or {"decision": "invited"})}
            for one in comparisons
        },
    }
    return Report(
        engine=ENGINE,
        audit=Audit.model_validate(audit),
        plan=PlanSummary(
            layers=[],
            targets=[],
            examples=[ExampleSetSummary(name="applicants", source=digest("applicants"), count=2821, kind="table")],
            gradient_checks=[],
        ),
        tests=[],
        comparisons=comparisons,
        rankings=[],
        matrices=[],
        warnings=[],
        verdict=Verdict(outcome=None, lines=[]),
    )


@pytest.fixture(scope="module")
def selections() -> Report:
    """The published example of a tool that selects; 250 people are of an unknown sex or race/ethnicity."""
    both = {key: (people, selected) for key, (people, selected, _) in BOTH.items()}
    return of(
        [
            comparison("by_sex", ["sex"], single(SEX), left_out=250),
            comparison("by_race", ["race"], single(RACE), left_out=237),
            comparison("by_both", ["sex", "race"], both, left_out=250),
        ]
    )


@pytest.fixture(scope="module")
def scores() -> Report:
    """The published example of a tool that scores."""
    more = {"threshold": 61.5, "left_out": 15}
    return of(
        [
            comparison("by_sex", ["sex"], single(SCORED_SEX), **more),
            comparison("by_race", ["race"], single(SCORED_RACE), **more),
        ],
        score="fit", threshold="median",
    )  # fmt: skip


def table(annex: Annex, field: str) -> Table:
    answer = next(entry.answer for entry in annex.entries if entry.field.id == field)
    assert answer is not None
    return answer.tables[0]


def said(annex: Annex, field: str) -> str:
    answer = next(entry.answer for entry in annex.entries if entry.field.id == field)
    assert answer is not None
    return " ".join(answer.sentences)


def ratios(found: Table) -> dict[str, float]:
    return {row[0]: float(row[-1]) for row in found.rows if re.fullmatch(r"[\d.]+", row[-1])}


@pytest.mark.parametrize(("field", "published"), [("sex", SEX), ("race", RACE)])
def test_selection_tables_are_those_of_the_rule_s_example(
    selections: Report, field: str, published: dict[str, tuple[int, int, float]]
) -> None:
    found = table(fill("ll144", Material(selections)), field)
    assert found.head == ("Category", "# of applicants", "# selected", "Selection rate", "Impact ratio")
    assert {row[0]: row[1:3] for row in found.rows} == {
        name: (f"{people:,}", str(selected)) for name, (people, selected, _) in published.items()
    }
    assert ratios(found) == {name: pytest.approx(ratio, abs=0.01) for name, (*_, ratio) in published.items()}


def test_intersections_are_those_of_the_rule_s_example(selections: Report) -> None:
    found = table(fill("ll144", Material(selections)), "intersections")
    assert ratios(found) == {f"{sex}, {race}": pytest.approx(row[2], abs=0.0006) for (sex, race), row in BOTH.items()}
    assert found.notes[0] == "Not in this table: 250 people of an unknown category."


def test_scoring_tables_are_those_of_the_rule_s_example(scores: Report) -> None:
    filled = fill("ll144", Material(scores))
    found = table(filled, "race")
    assert found.head == ("Category", "# of applicants", "Scoring rate", "Impact ratio")
    assert ratios(found) == {name: pytest.approx(ratio, abs=0.01) for name, (*_, ratio) in SCORED_RACE.items()}
    assert said(filled, "median") == "61.5"


def test_what_an_audit_lacks_is_said_with_what_to_add(scores: Report) -> None:
    filled = fill("ll144", Material(scores))
    entry = next(entry for entry in filled.entries if entry.field.id == "intersections")
    assert not entry.recorded
    assert "add a group with `sensitive: [sex, race]`" in str(entry.remedy)
    assert {"date", "distribution_date", "auditor", "data_source", "time_span"} <= {
        one.field.id for one in filled.missing
    }


def test_small_categories_are_left_out_only_with_a_justification(selections: Report) -> None:
    kept = fill("ll144", Material(selections))
    assert "no justification was given: race: Native American or Alaska Native (41 people)" in said(kept, "excluded")
    left_out = fill("ll144", Material(selections, Filing(exclude_small="Too few for a ratio.")))
    rows = {row[0]: row for row in table(left_out, "race").rows}
    assert rows["Native American or Alaska Native"][1:] == ("41", "18", "43.9\u202f%", "left out")
    assert "Justification: Too few for a ratio." in said(left_out, "excluded")
    assert "Native American" not in str(left_out.entries[-1])


def test_a_tiny_category_that_is_left_out_is_nobody_s_yardstick() -> None:
    report = of([comparison("by_sex", ["sex"], {("a",): (500, 250), ("b",): (500, 200), ("x",): (3, 3)})])
    with_all = ratios(table(fill("ll144", Material(report)), "sex"))
    without = ratios(table(fill("ll144", Material(report, Filing(exclude_small="Three people."))), "sex"))
    assert with_all == {"a": 0.5, "b": 0.4, "x": 1.0}
    assert without == {"a": 1.0, "b": 0.8}


def test_values_that_stand_for_unknown_are_counted_and_names_are_the_form_s() -> None:
    report = of([comparison("g", ["gender"], {("1",): (50, 20), ("0",): (40, 20), ("x",): (7, 2)}, left_out=3)])
    filing = Filing(columns=Columns(sex="gender"), labels={"gender": {"1": "Male"}}, unknown={"gender": ["x"]})
    filled = fill("ll144", Material(report, filing))
    assert [row[0] for row in table(filled, "sex").rows] == ["Male", "0"]
    assert said(filled, "unknown").startswith("10 people of unknown sex.")


def test_nobody_selected_gives_no_ratio() -> None:
    report = of([comparison("by_sex", ["sex"], {("a",): (50, 0), ("b",): (40, 0)})])
    assert [row[-1] for row in table(fill("ll144", Material(report)), "sex").rows] == ["–", "–"]


def test_tables_are_of_one_decision(selections: Report) -> None:
    """A second decision by the same columns makes no table beside those of the first."""
    other = comparison("model_by_sex", ["sex"], {("Male",): (9, 9), ("Female",): (9, 1)})
    groups = selections.audit.groups | {
        "model_by_sex": selections.audit.groups["by_sex"].model_copy(update={"decision": "hired"})
    }
    audit = selections.audit.model_copy(update={"groups": groups})
    both = selections.model_copy(update={"comparisons": [other, *selections.comparisons], "audit": audit})
    assert {part.comparison.name for part in ll144.parts(Material(both)).values()} == {"by_sex", "by_race", "by_both"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_fills_in_every_report(kind: AnnexKind, report: Report) -> None:
    filled = fill(kind, Material(report))
    assert [entry.field.id for entry in filled.entries] == [field.id for field in filled.form.fields]
    assert all(
        entry.recorded or str(entry.remedy).endswith(f"`fields: {entry.field.id}:`.") for entry in filled.entries
    )
    page = html.render(filled)
    html5lib.HTMLParser(strict=True).parse(page)
    assert "<script" not in page
    assert page.count('class="source"') == sum((e.answer is not None) + (e.stated is not None) for e in filled.entries)
    rows = list(csv_reader.DictReader(StringIO(csv.render(filled))))
    assert {row["field"] for row in rows} == {"cover", *(field.id for field in filled.form.fields)}
    assert not any(str(value).startswith(("=", "+", "-", "@")) for row in rows for value in row.values())


@pytest.mark.parametrize("kind", KINDS)
def test_forms_name_their_fields_once_and_fill_only_those(kind: AnnexKind) -> None:
    from importlib import import_module

    module = import_module(f"caveat_reports.annexes.{kind.replace('-', '_')}")
    ids = [field.id for field in module.FORM.fields]
    assert len(ids) == len(set(ids))
    assert set(module.FILLS) <= set(ids)
    assert module.FORM.url.startswith("https://")


ANNEX_IV_POINTS = [*(f"1 ({x})" for x in "abcdefgh"), *(f"2 ({x})" for x in "abcdefgh"), *map(str, range(3, 10))]


def test_annex_iv_has_every_point() -> None:
    """Points 1 (a) to (h), 2 (a) to (h) and 3 to 9 of the annex as published."""
    form = fill("annex-iv", Material(of([comparison("g", ["sex"], single(SEX))]))).form
    assert list(dict.fromkeys(field.clause for field in form.fields)) == ANNEX_IV_POINTS


def test_a_model_card_has_every_section(watermark: Report) -> None:
    """Figure 1 of the paper: nine sections, in its order."""
    clauses = dict.fromkeys(field.clause for field in fill("model-card", Material(watermark)).form.fields)
    assert [clause[:3] for clause in clauses][:9] == [f"4.{i}" for i in range(1, 10)]


def test_an_effect_that_a_flag_blocks_is_not_the_one_quoted() -> None:
    sound, blocked = handmade.row(in_sd=0.2, layer="sound"), handmade.row(in_sd=0.9, flags=(handmade.flag("weak_cav"),))
    report = handmade.report(blocked, sound)
    (row,) = table(fill("model-card", Material(report)), "concepts").rows
    assert row[2:4] == ("association at sound", "+0.2 sd (\u22120.05 to +0.05)")
    assert list(console.measured(report)) == ["mark \u2192 carton, at sound"]


def test_words_of_the_filer_are_marked_as_theirs(watermark: Report) -> None:
    filled = fill("sr-11-7", Material(watermark, Filing(fields={"validator": "Model Validation, =HYPERLINK()"})))
    assert "stated by the filer" in html.render(filled)
    assert 'Model Validation, =HYPERLINK()",stated by the filer' in csv.render(filled)
    with pytest.raises(UnknownFieldError, match="no field 'validators'"):
        fill("sr-11-7", Material(watermark, Filing(fields={"validators": "x"})))


def test_a_verified_attestation_dates_the_cover(watermark: Report) -> None:
    run = Run.model_validate(
        {"audit": None, "where": "ci", "started_at": "2026-03-02T10:15:00Z", "finished_at": "2026-03-02T10:20:00Z"}
    )
    filled = fill("ll144", Material(watermark, signature=Signature(run, ("ab" * 32,))))
    cover = {line.title: line.value for line in filled.cover}
    assert cover["Date of the audit"] == "2026-03-02 (10:15 to 10:20 UTC)"
    assert cover["Signature of the report"] == f"valid, by the key {'ab' * 32}"
    unsigned = {line.title: line.value for line in fill("ll144", Material(watermark)).cover}
    assert unsigned["Date of the audit"] is None


@pytest.mark.parametrize(
    ("a", "b"), [((20, 5), (30, 18)), ((7, 0), (9, 9)), ((300, 200), (1681, 1527)), ((1, 1), (1, 0))]
)
def test_the_exact_test_is_scipy_s(a: tuple[int, int], b: tuple[int, int]) -> None:
    one, other = Group("a", *a), Group("b", *b)
    wanted = fisher_exact([[a[1], a[0] - a[1]], [b[1], b[0] - b[1]]]).pvalue
    assert fisher(one, other) == pytest.approx(wanted, rel=1e-6)


def test_shortfall_and_standard_deviations_are_of_the_hypergeometric_distribution() -> None:
    (impact,) = impacts([Group("white", 1681, 1527), Group("nonwhite", 308, 218)])
    law = hypergeom(1989, 1745, 308)
    assert impact.shortfall == pytest.approx(law.mean() - 218)
    assert impact.standard_deviations == pytest.approx((218 - law.mean()) / law.std())
    assert impact.ratio == pytest.approx(0.7792, abs=1e-4)
    needed = impact.to_four_fifths
    assert (218 + needed) / 308 >= 0.8 * 1527 / 1681 > (218 + needed - 1) / 308


def test_holm_s_correction_is_by_rank() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert all(math.isclose(one, 1.0) for one in holm([0.9, 0.8]))


def test_older_reports_give_counts_by_their_rates(selections: Report) -> None:
    rows = [[row.model_copy(update={"selected": None}) for row in one.rows] for one in selections.comparisons]
    older = selections.model_copy(
        update={
            "comparisons": [
                one.model_copy(update={"rows": row}) for one, row in zip(selections.comparisons, rows, strict=True)
            ]
        }
    )
    assert table(fill("ll144", Material(older)), "race") == table(fill("ll144", Material(selections)), "race")
