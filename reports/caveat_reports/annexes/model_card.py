"""Model cards: the sections of Mitchell et al. 2019, figure 1."""

from __future__ import annotations

from caveat_reports.annexes import fragments
from caveat_reports.annexes.form import Answer, Field, Fill, Form, Material, Missing, date_of_the_audit
from caveat_spec.audit import ConceptLine

FORM = Form(
    title="Model card",
    publisher="Mitchell, Wu, Zaldivar, Barnes, Vasserman, Hutchinson, Spitzer, Raji, Gebru",
    citation="Model Cards for Model Reporting, FAT* 2019, figure 1 and section 4",
    url="https://doi.org/10.1145/3287560.3287596",
    scope="Every section of figure 1. What the audit measured fills the quantitative ones; how the model was made, and "
    "for whom, its developers have to say.",
    fields=(
        Field("developer", "Person or organisation developing the model", "4.1 Model details"),
        Field("model_date", "Model date", "4.1 Model details"),
        Field("version", "Model version", "4.1 Model details"),
        Field("type", "Model type", "4.1 Model details"),
        Field("training", "Training algorithms, parameters, fairness constraints, features", "4.1 Model details"),
        Field("resource", "Paper or other resource for more information", "4.1 Model details"),
        Field("citation", "Citation details", "4.1 Model details"),
        Field("licence", "Licence", "4.1 Model details"),
        Field("contact", "Where to send questions or comments", "4.1 Model details"),
        Field("uses", "Primary intended uses", "4.2 Intended use"),
        Field("users", "Primary intended users", "4.2 Intended use"),
        Field("out_of_scope", "Out-of-scope use cases", "4.2 Intended use"),
        Field("relevant_factors", "Relevant factors", "4.3 Factors"),
        Field("evaluation_factors", "Evaluation factors", "4.3 Factors"),
        Field("measures", "Model performance measures", "4.4 Metrics"),
        Field("thresholds", "Decision thresholds", "4.4 Metrics"),
        Field("variation", "Variation approaches", "4.4 Metrics"),
        Field("data", "Datasets", "4.5 Evaluation data"),
        Field("motivation", "Motivation", "4.5 Evaluation data"),
        Field("preprocessing", "Preprocessing", "4.5 Evaluation data"),
        Field("training_data", "Training data", "4.6 Training data"),
        Field("unitary", "Unitary results", "4.7 Quantitative analyses"),
        Field("intersectional", "Intersectional results", "4.7 Quantitative analyses"),
        Field("concepts", "Dependence on concepts (beyond the form)", "4.7 Quantitative analyses"),
        Field("ethical", "Ethical considerations", "4.8 Ethical considerations"),
        Field("caveats", "Caveats and recommendations", "4.9 Caveats and recommendations"),
        Field("audited", "Date of the audit (beyond the form)", "–"),
    ),
)


def _factors(material: Material) -> Answer | Missing:
    columns = dict.fromkeys(column for one in material.report.comparisons for column in one.sensitive)
    tested = dict.fromkeys(test.concept for test in material.report.tests)
    told = []
    if columns:
        told.append(f"Groups of people by {', '.join(columns)}.")
    if tested:
        told.append(f"Concepts: {', '.join(tested)}.")
    if not told:
        return Missing("The audit compares no groups and tests no concepts")
    return Answer("report: /comparisons/*/sensitive, /tests/*/concept", tuple(told))


def _measures(material: Material) -> Answer | Missing:
    gate = material.report.audit.gate
    if not gate:
        return Missing("The audit sets no gate, so that no measure was asked for")
    return Answer("report: /verdict/lines/*/subject", tuple(line.subject for line in material.report.verdict.lines))


def _thresholds(material: Material) -> Answer | Missing:
    decided = [f"{one.name}: {one.decisions}." for one in material.report.comparisons]
    tolerances = [
        f"{line.subject}: tolerance {asked.tolerance:g} {asked.unit}."
        for line, asked in zip(material.report.verdict.lines, material.report.audit.gate, strict=False)
        if isinstance(asked, ConceptLine)
    ]
    if not decided and not tolerances:
        return Missing("The audit compares no decisions and sets no tolerance")
    return Answer("report: /comparisons/*/decisions, /audit/gate", (*decided, *tolerances))


def _preprocessing(material: Material) -> Answer:
    sets = material.report.audit.examples
    told = [
        f"{name}: {', '.join(f'{key} {value}' for key, value in preprocess.model_dump(exclude_none=True).items())}."
        for name, one in sets.items()
        if (preprocess := getattr(one, "preprocess", None)) is not None
    ]
    return Answer("report: /audit/examples", tuple(told) or ("The examples go into the model without preprocessing.",))


FILLS: dict[str, Fill] = {
    "developer": fragments.owner,
    "version": fragments.identity,
    "uses": fragments.purpose,
    "evaluation_factors": _factors,
    "measures": _measures,
    "thresholds": _thresholds,
    "variation": fragments.method,
    "data": fragments.data,
    "motivation": fragments.policy,
    "preprocessing": _preprocessing,
    "unitary": fragments.single_groups,
    "intersectional": fragments.intersections,
    "concepts": fragments.concepts,
    "caveats": fragments.together(fragments.verdict, fragments.cautions),
    "audited": date_of_the_audit,
}
