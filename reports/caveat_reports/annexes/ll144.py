"""New York City's Local Law 144: the summary of a bias audit, 6 RCNY §§ 5-300 to 5-303.

The tables have the columns of the examples under § 5-301. A person whose category is unknown is in no table but
counted; the intersections are compared in people of whom both are known, so that their rows need not add up to the
other tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from caveat_reports.annexes import adverse_impact
from caveat_reports.annexes.adverse_impact import Group
from caveat_reports.annexes.form import Answer, Field, Fill, Form, Material, Missing, Table, date_of_the_audit
from caveat_reports.formatting import count, fixed, plain, share, short_digest
from caveat_spec.audit import Group as AskedGroup
from caveat_spec.results import Comparison

SMALL = 0.02
"""A category of a smaller share of the data may be left out of impact ratios (§ 5-301 (d))."""

FORM = Form(
    title="Summary of a bias audit",
    publisher="New York City, Department of Consumer and Worker Protection",
    citation="Local Law 144 of 2021; Rules of the City of New York, title 6, §§ 5-300 to 5-303 (effective 6 May 2023)",
    url="https://codelibrary.amlegal.com/codes/newyorkcity/latest/NYCrules/0-0-0-138530",
    scope="The calculations of § 5-301 and the summary of results of § 5-303, from one report. It does not make its "
    "author an independent auditor (§ 5-300), and it contains no notice to candidates (§ 5-304).",
    fields=(
        Field("date", "Date of the bias audit", "§ 5-303 (a)(1)"),
        Field("distribution_date", "Distribution date of the tool", "§ 5-303 (a)(2)"),
        Field("auditor", "Independent auditor", "§ 5-300"),
        Field("tool", "The tool and what it decides", "§ 5-300"),
        Field("data_source", "Source and explanation of the data", "§ 5-303 (a)(1), § 5-302 (a)"),
        Field("time_span", "Time span of the data", "§ 5-302 (a)"),
        Field("test_data", "Where test data were used: why, and how they were made", "§ 5-302 (b)"),
        Field("median", "Median score of the full sample", "§ 5-301 (c)(1)"),
        Field("sex", "Sex categories", "§ 5-301 (b)(1)-(3)(i), (c)(2)-(4)(i)"),
        Field("race", "Race/ethnicity categories", "§ 5-301 (b)(1)-(3)(ii), (c)(2)-(4)(ii)"),
        Field("intersections", "Intersectional categories", "§ 5-301 (b)(1)-(3)(iii), (c)(2)-(4)(iii)"),
        Field("classes", "The same for each group that the tool classifies into", "§ 5-301 (b)(4)"),
        Field("unknown", "People of an unknown category", "§ 5-301 (b)(5), (c)(5), § 5-303 (a)(1)"),
        Field("excluded", "Categories under 2 % left out of impact ratios", "§ 5-301 (d)"),
        Field("adverse_impact", "Beyond the rule: adverse impact", "29 CFR 1607.4 (D)"),
    ),
)


@dataclass(frozen=True)
class Part:
    """One of the three tables: its groups by the form's names, and who is in none."""

    comparison: Comparison
    groups: list[Group]
    unknown: int
    empty: list[str]

    @property
    def people(self) -> int:
        """Everybody in the table."""
        return sum(group.people for group in self.groups)

    def small(self) -> list[Group]:
        """The categories of less than 2 % of the data, people of unknown category included."""
        return [group for group in self.groups if group.people < SMALL * (self.people + self.unknown)]


def parts(material: Material) -> dict[str, Part]:
    """The tables that the report can fill, by the ids of their fields: all of the same decisions about the same people.

    Where an audit compares several decisions by these columns, those with the most tables, the first of them.
    """
    wanted = _wanted(material)
    found: dict[tuple[object, ...], dict[str, Part]] = {}
    for one in material.report.comparisons:
        asked = _asked(material, one)
        name = next((name for name, sensitive in wanted.items() if set(one.sensitive) == set(sensitive)), None)
        decisions = (asked.examples, asked.decision, asked.score, asked.target, asked.threshold)
        if name is not None:
            found.setdefault(decisions, {}).setdefault(name, _part(material, one))
    best = max(found.values(), key=len, default={})
    return {name: best[name] for name in wanted if name in best}


def _wanted(material: Material) -> dict[str, tuple[str, ...]]:
    """The columns of each table."""
    columns = material.filing.columns
    return {"sex": (columns.sex,), "race": (columns.race,), "intersections": (columns.sex, columns.race)}


def _asked(material: Material, comparison: Comparison) -> AskedGroup:
    return material.report.audit.groups[comparison.name]


def _part(material: Material, comparison: Comparison) -> Part:
    known, unknown = [], comparison.left_out
    stand_in = material.filing.unknown
    for row in comparison.rows:
        values = dict(zip(comparison.sensitive, row.values, strict=False))  # an older report has none
        if any(value in stand_in.get(column, ()) for column, value in values.items()):
            unknown += row.n
        else:
            known.append(adverse_impact.group_of(row, _named(material, values) or row.group))
    return Part(comparison, known, unknown, comparison.empty)


def _named(material: Material, values: dict[str, str]) -> str:
    labels = material.filing.labels
    return ", ".join(labels.get(column, {}).get(value, value) for column, value in values.items())


def _table(name: str) -> Fill:
    """A table of the form."""

    def fill(material: Material) -> Answer | Missing:
        part = parts(material).get(name)
        if part is None:
            return Missing(_no_table(material, name))
        rate = "Scoring rate" if _scores(material, part) else "Selection rate"
        counted = () if rate == "Scoring rate" else ("# selected",)
        compared = _compared(material, part)
        best = adverse_impact.highest(compared)
        title = next(field.title for field in FORM.fields if field.id == name)
        shown = Table(
            caption=f"{title}: {part.comparison.decisions}",
            head=("Category", "# of applicants", *counted, rate, "Impact ratio"),
            rows=tuple(
                (
                    group.name,
                    count(group.people),
                    *([count(group.selected)] if counted else []),
                    share(group.rate),
                    "left out" if group not in compared else "–" if best is None else fixed(group.rate / best.rate, 3),
                )
                for group in part.groups
            ),
            notes=tuple(_notes(part)),
        )
        return Answer(f"report: /comparisons ({part.comparison.name})", tables=(shown,))

    return fill


def _notes(part: Part) -> list[str]:
    notes = [
        f"Not in this table: {count(part.unknown)} people of an unknown category."
        if part.unknown
        else "Everybody's category is known."
    ]
    if part.empty:
        notes.append(f"Nobody is in: {', '.join(part.empty)}.")
    return notes


def _no_table(material: Material, name: str) -> str:
    wanted = _wanted(material)[name]
    return (
        f"The audit compares no groups by {' and '.join(wanted)} alone: add a group with "
        f"`sensitive: [{', '.join(wanted)}]` and audit again, or name other `columns`"
    )


def _scores(material: Material, part: Part) -> bool:
    """Whether the table is of scores above the sample's median, as the rule's scoring rate is."""
    return _asked(material, part.comparison).threshold == "median"


def _compared(material: Material, part: Part) -> list[Group]:
    """The groups that have impact ratios: all but small ones that the filing leaves out."""
    left_out = part.small() if material.filing.exclude_small is not None else []
    return [group for group in part.groups if group not in left_out]


def _median(material: Material) -> Answer | Missing:
    filled = parts(material)
    found = [part for part in filled.values() if _scores(material, part)]
    if not found:
        if filled:
            return Answer("report: /audit/groups", ("Does not apply: the tables are of decisions, not of scores.",))
        return Missing("The audit compares no scores: for a tool that scores, set `threshold: median` in its groups")
    medians = {part.comparison.threshold for part in found if part.comparison.threshold is not None}
    names = ", ".join(part.comparison.name for part in found)
    return Answer(f"report: /comparisons ({names}) /threshold", tuple(plain(one, 6) for one in sorted(medians)))


def _unknown(material: Material) -> Answer | Missing:
    found = parts(material)
    if not found:
        return Missing("The audit compares no groups by these columns")
    words = {"sex": "sex", "race": "race/ethnicity", "intersections": "sex or race/ethnicity"}
    sentences = tuple(f"{count(part.unknown)} people of unknown {words[name]}." for name, part in found.items())
    return Answer("report: /comparisons/*/left_out", (*sentences, "They are in no calculation above."))


def _excluded_said(material: Material) -> Answer | Missing:
    found = parts(material)
    if not found:
        return Missing("The audit compares no groups by these columns")
    small = {name: groups for name, part in found.items() if (groups := part.small())}
    if not small:
        return Answer("report: /comparisons", ("No category holds less than 2 % of the data.",))
    named = "; ".join(
        f"{name}: {', '.join(f'{group.name} ({count(group.people)} people)' for group in groups)}"
        for name, groups in small.items()
    )
    if material.filing.exclude_small is None:
        said = "Less than 2 % of the data, and in the impact ratios all the same, as no justification was given"
        return Answer("report: /comparisons", (f"{said}: {named}.",))
    return Answer(
        "report: /comparisons; the justification is stated by the filer (`exclude_small`)",
        (
            f"Left out of the impact ratios, with their number of applicants and rate in the tables: {named}.",
            f"Justification: {material.filing.exclude_small}",
        ),
    )


def _impact(material: Material) -> Answer | Missing:
    tables = [
        adverse_impact.table(name.capitalize(), _compared(material, part)) for name, part in parts(material).items()
    ]
    shown = tuple(table for table in tables if table is not None)
    return Answer("report: /comparisons", tables=shown) if shown else Missing("The audit compares no two such groups")


def _tool(material: Material) -> Answer | Missing:
    about = material.report.audit.about
    told = [] if about is None else [one for one in (about.title, about.purpose) if one is not None]
    if not told:
        return Missing("The audit does not say: give `about: title` and `purpose`")
    return Answer("report: /audit/about", (*told, f"Model {short_digest(material.report.audit.model)}."))


def _data(material: Material) -> Answer | Missing:
    """What the report knows of the data: their bytes and their number. Where they come from a person has to say."""
    names = dict.fromkeys(_asked(material, part.comparison).examples for part in parts(material).values())
    sets = [one for one in material.report.plan.examples if one.name in names]
    if not sets or "data_source" not in material.filing.fields:
        return Missing("A report knows the data's digest, not where they come from")
    return Answer(
        "report: /plan/examples", tuple(f"{one.name}: {count(one.count)} people, {one.source}." for one in sets)
    )


def _classes(material: Material) -> Missing:
    return Missing(
        "One annex is about one decision: audit each group that the tool assigns, and file an annex for each"
    )


FILLS: dict[str, Fill] = {
    "date": date_of_the_audit,
    "tool": _tool,
    "data_source": _data,
    "median": _median,
    "sex": _table("sex"),
    "race": _table("race"),
    "intersections": _table("intersections"),
    "classes": _classes,
    "unknown": _unknown,
    "excluded": _excluded_said,
    "adverse_impact": _impact,
}
