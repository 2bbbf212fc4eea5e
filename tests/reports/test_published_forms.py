"""Annex IV of the EU AI Act and SR 11-7 beside our annexes: each element as published, its field, and what fills it.

`ANNEX_IV` has the words of the Official Journal (L, 2024/1689), one row for each element of a point. SR 11-7 prescribes
no form; `SR_11_7` has its headings in their order, and under each what it asks to be documented, in our words.
"""

from __future__ import annotations

import csv as csv_reader
import re
from collections.abc import Callable
from io import StringIO
from typing import Any, NamedTuple

import pytest

from caveat_reports.annexes import csv, fill, html
from caveat_reports.annexes.form import Material, Signature
from caveat_spec.annexes import AnnexKind
from caveat_spec.attestation import Run
from caveat_spec.audit import About
from caveat_spec.filing import Filing
from caveat_spec.report import Report

PURPOSE, OWNER, POLICY, TITLE = "Sorts parcels.", "Parcels team", "Policy 7: no stamp decides.", "Parcel sorter 4.2"


class Ask(NamedTuple):
    """An element of a published form."""

    clause: str
    words: str
    field: str
    holds: Callable[[Report], list[str]] | None = None
    """What the field has to say, computed from the report alone; None where a report cannot know it."""


def about(*names: str) -> Callable[[Report], list[str]]:
    return lambda report: [str(getattr(report.audit.about, name)) for name in names]


def model(report: Report) -> list[str]:
    return [report.audit.model]


def software(report: Report) -> list[str]:
    return [f"{name} {version}" for name, version in report.engine.versions.items()] + [report.engine.provider]


def targets(report: Report) -> list[str]:
    return [text for one in report.plan.targets for text in (one.target, one.sentence, one.unit)]


def layers(report: Report) -> list[str]:
    return [text for one in report.plan.layers for text in (one.layer, one.operator, f"{one.features:,}")]


def data(report: Report) -> list[str]:
    return [text for one in report.plan.examples for text in (one.name, one.source, f"{one.count:,}")]


def verdict(report: Report) -> list[str]:
    return [text for line in report.verdict.lines for text in (line.subject, line.reason)]


def percent(value: float) -> str:
    return f"{100 * value:.1f}\N{NARROW NO-BREAK SPACE}%"


def selection(report: Report) -> list[str]:
    return [percent(row.selection_rate.value) for one in report.comparisons for row in one.rows if row.selection_rate]


def errors(report: Report) -> list[str]:
    rows = [row for one in report.comparisons for row in one.rows]
    found = [rate for row in rows for rate in (row.true_positive_rate, row.false_positive_rate) if rate is not None]
    return [percent(bound) for rate in found for bound in (rate.value, *rate.interval)]


def four_fifths(report: Report) -> list[str]:
    """Ratios of the other groups' selection rates to the highest, by the people who were selected."""
    ratios = []
    for one in report.comparisons:
        rates = [round(row.n * row.selection_rate.value) / row.n for row in one.rows if row.selection_rate]
        ratios += [f"{rate / max(rates):.3f}" for rate in rates if rate < max(rates)]
    return ratios


def concepts(report: Report) -> list[str]:
    return [text for one in report.tests for text in (one.concept, one.target)]


def cautions(report: Report) -> list[str]:
    return [*report.warnings, *(flag.sentence for one in report.associations for flag in one.flags)]


def dated(_: Report) -> list[str]:
    return ["2026-03-02 (10:15 to 10:20 UTC)"]


def signed(_: Report) -> list[str]:
    return ["ab" * 32]


def all_of(*parts: Callable[[Report], list[str]]) -> Callable[[Report], list[str]]:
    return lambda report: [text for part in parts for text in part(report)]


ANNEX_IV = (
    Ask(
        "1 (a)",
        "its intended purpose, the name of the provider and the version of the system reflecting its relation to "
        "previous versions",
        "1a",
        all_of(about("purpose", "owner", "title"), model),
    ),
    Ask(
        "1 (b)",
        "how the AI system interacts with, or can be used to interact with, hardware or software, including with other "
        "AI systems, that are not part of the AI system itself, where applicable",
        "1b",
    ),
    Ask(
        "1 (c)",
        "the versions of relevant software or firmware, and any requirements related to version updates",
        "1c",
        software,
    ),
    Ask(
        "1 (d)",
        "the description of all the forms in which the AI system is placed on the market or put into service, such as "
        "software packages embedded into hardware, downloads, or APIs",
        "1d",
    ),
    Ask("1 (e)", "the description of the hardware on which the AI system is intended to run", "1e"),
    Ask(
        "1 (f)",
        "where the AI system is a component of products, photographs or illustrations showing external features, the "
        "marking and internal layout of those products",
        "1f",
    ),
    Ask("1 (g)", "a basic description of the user-interface provided to the deployer", "1g"),
    Ask(
        "1 (h)",
        "instructions for use for the deployer, and a basic description of the user-interface provided to the "
        "deployer, where applicable",
        "1h",
    ),
    Ask(
        "2 (a)",
        "the methods and steps performed for the development of the AI system, including, where relevant, recourse to "
        "pre-trained systems or tools provided by third parties and how those were used, integrated or modified by the "
        "provider",
        "2a",
    ),
    Ask(
        "2 (b)",
        "the design specifications of the system, namely the general logic of the AI system and of the algorithms; the "
        "key design choices including the rationale and assumptions made, including with regard to persons or groups "
        "of persons in respect of who, the system is intended to be used; the main classification choices; what the "
        "system is designed to optimise for, and the relevance of the different parameters; the description of the "
        "expected output and output quality of the system; the decisions about any possible trade-off made regarding "
        "the technical solutions adopted to comply with the requirements set out in Chapter III, Section 2",
        "2b",
        targets,
    ),
    Ask(
        "2 (c)",
        "the description of the system architecture explaining how software components build on or feed into each "
        "other and integrate into the overall processing; the computational resources used to develop, train, test and "
        "validate the AI system",
        "2c",
        layers,
    ),
    Ask(
        "2 (d)",
        "where relevant, the data requirements in terms of datasheets describing the training methodologies and "
        "techniques and the training data sets used, including a general description of these data sets, information "
        "about their provenance, scope and main characteristics; how the data was obtained and selected; labelling "
        "procedures (e.g. for supervised learning), data cleaning methodologies (e.g. outliers detection)",
        "2d",
    ),
    Ask(
        "2 (e)",
        "assessment of the human oversight measures needed in accordance with Article 14, including an assessment of "
        "the technical measures needed to facilitate the interpretation of the outputs of AI systems by the deployers, "
        "in accordance with Article 13(3), point (d)",
        "2e",
    ),
    Ask(
        "2 (f)",
        "where applicable, a detailed description of pre-determined changes to the AI system and its performance, "
        "together with all the relevant information related to the technical solutions adopted to ensure continuous "
        "compliance of the AI system with the relevant requirements set out in Chapter III, Section 2",
        "2f",
    ),
    Ask(
        "2 (g)",
        "the validation and testing procedures used, including information about the validation and testing data used "
        "and their main characteristics",
        "2g",
        data,
    ),
    Ask(
        "2 (g)",
        "metrics used to measure accuracy, robustness and compliance with other relevant requirements set out in "
        "Chapter III, Section 2, as well as potentially discriminatory impacts",
        "2g_metrics",
        all_of(verdict, concepts, selection, four_fifths),
    ),
    Ask(
        "2 (g)",
        "test logs and all test reports dated and signed by the responsible persons, including with regard to "
        "pre-determined changes as referred to under point (f)",
        "2g_reports",
        all_of(dated, signed),
    ),
    Ask("2 (h)", "cybersecurity measures put in place", "2h"),
    Ask(
        "3",
        "its capabilities and limitations in performance, including the degrees of accuracy for specific persons or "
        "groups of persons on which the system is intended to be used and the overall expected level of accuracy in "
        "relation to its intended purpose",
        "3_accuracy",
        errors,
    ),
    Ask(
        "3",
        "the foreseeable unintended outcomes and sources of risks to health and safety, fundamental rights and "
        "discrimination in view of the intended purpose of the AI system",
        "3_risks",
        all_of(verdict, cautions),
    ),
    Ask(
        "3",
        "the human oversight measures needed in accordance with Article 14, including the technical measures put in "
        "place to facilitate the interpretation of the outputs of AI systems by the deployers",
        "3_oversight",
    ),
    Ask("3", "specifications on input data, as appropriate", "3_input"),
    Ask(
        "4",
        "A description of the appropriateness of the performance metrics for the specific AI system",
        "4",
        about("policy"),
    ),
    Ask("5", "A detailed description of the risk management system in accordance with Article 9", "5"),
    Ask("6", "A description of relevant changes made by the provider to the system through its lifecycle", "6"),
    Ask(
        "7",
        "A list of the harmonised standards applied in full or in part the references of which have been published in "
        "the Official Journal of the European Union; where no such harmonised standards have been applied, a detailed "
        "description of the solutions adopted to meet the requirements set out in Chapter III, Section 2, including a "
        "list of other relevant standards and technical specifications applied",
        "7",
    ),
    Ask("8", "A copy of the EU declaration of conformity referred to in Article 47", "8"),
    Ask(
        "9",
        "A detailed description of the system in place to evaluate the AI system performance in the post-market phase "
        "in accordance with Article 72, including the post-market monitoring plan referred to in Article 72(3)",
        "9",
    ),
)

DEVELOPMENT, VALIDATION = "IV Model development and implementation", "V Model validation"
SR_11_7 = (
    Ask(DEVELOPMENT, "a clear statement of purpose, aligned with the intended use", "purpose", about("purpose")),
    Ask(DEVELOPMENT, "design, theory and logic, documented", "design", all_of(targets, layers)),
    Ask(DEVELOPMENT, "data of the development, assessed for quality and relevance", "development_data"),
    Ask(DEVELOPMENT, "model testing of components and functioning, with its data", "testing", data),
    Ask("IV Model use", "productive use: feedback of users, conservatism, reports", "use"),
    Ask(VALIDATION, "who validated, independent of development and use", "validator"),
    Ask("V Key elements, 1", "conceptual soundness: what the output depends on, by sensitivity", "soundness", concepts),
    Ask("V Key elements, 1", "conceptual soundness: assumptions and limitations", "assumptions", cautions),
    Ask(
        "V Key elements, 2", "ongoing monitoring: process verification, inputs and code", "process",
        all_of(software, lambda report: [str(report.audit.method.seed)]),
    ),
    Ask("V Key elements, 2", "ongoing monitoring: benchmarking against other models", "benchmark"),
    Ask("V Key elements, 2", "ongoing monitoring: plan, thresholds, overrides", "monitoring"),
    Ask(
        "V Key elements, 3", "outcomes analysis: outputs beside outcomes, of groups of people", "outcomes",
        all_of(selection, errors),
    ),
    Ask("V Key elements, 3", "outcomes analysis: adverse impact", "impact", four_fifths),
    Ask("V Key elements, 3", "outcomes analysis: back-testing over a period not used in development", "back_testing"),
    Ask("V Vendor and other products", "validation of vendor and third-party products", "vendor"),
    Ask("VI Board and senior management", "reports to board and senior management about model risk", "board"),
    Ask("VI Policies and procedures", "policies and procedures", "policy", about("policy")),
    Ask("VI Roles and responsibilities", "roles: ownership, controls, compliance", "roles", about("owner")),
    Ask("VI Internal audit", "internal audit of the model risk management", "internal_audit"),
    Ask("VI External resources", "external resources and the scope of their work", "external"),
    Ask(
        "VI Model inventory", "model inventory: name, version, owner", "inventory",
        all_of(about("title", "owner"), model),
    ),
    Ask("VI Documentation", "documentation of the validation: findings and conclusion", "conclusion", verdict),
    Ask("VI Documentation", "documentation of the validation: its date", "date", dated),
)  # fmt: skip
PUBLISHED: dict[AnnexKind, tuple[Ask, ...]] = {"annex-iv": ANNEX_IV, "sr-11-7": SR_11_7}
ROWS = [pytest.param(kind, ask, id=f"{kind}:{ask.field}") for kind, asks in PUBLISHED.items() for ask in asks]


@pytest.fixture(scope="module")
def material(watermark: Report) -> Material:
    """A report that has nearly everything, with its attestation."""
    stated = About(title=TITLE, owner=OWNER, purpose=PURPOSE, policy=POLICY)
    audit = watermark.audit.model_copy(update={"about": stated})
    run = Run.model_validate(
        {"audit": None, "where": "ci", "started_at": "2026-03-02T10:15:00Z", "finished_at": "2026-03-02T10:20:00Z"}
    )
    return Material(watermark.model_copy(update={"audit": audit}), signature=Signature(run, ("ab" * 32,)))


@pytest.mark.parametrize("kind", PUBLISHED)
def test_a_form_has_the_elements_of_the_published_one_in_its_order_and_no_others(
    kind: AnnexKind, material: Material
) -> None:
    fields = fill(kind, material).form.fields
    assert [(field.clause, field.id) for field in fields] == [(ask.clause, ask.field) for ask in PUBLISHED[kind]]


@pytest.mark.parametrize("ask", [pytest.param(ask, id=ask.field) for ask in ANNEX_IV])
def test_a_field_of_annex_iv_is_titled_in_the_words_of_the_annex(ask: Ask, material: Material) -> None:
    """Most of a title's words, by their stems, are those of the element that it stands for."""
    (field,) = [field for field in fill("annex-iv", material).form.fields if field.id == ask.field]
    published = {stem(word) for word in re.findall(r"[a-z]{4,}", ask.words.lower())}
    title = [word for word in re.findall(r"[a-z]{4,}", field.title.lower()) if word not in PLAIN]
    ours = [word for word in title if stem(word) not in published]
    assert len(ours) <= len(title) / 3, ours


PLAIN = {"with", "that", "their", "them", "what", "which", "place", "where"}


def stem(word: str) -> str:
    return word[:5]


@pytest.mark.parametrize(("kind", "ask"), ROWS)
def test_a_field_says_what_the_report_holds_or_that_it_is_not_recorded(
    kind: AnnexKind, ask: Ask, material: Material
) -> None:
    (entry,) = [entry for entry in fill(kind, material).entries if entry.field.id == ask.field]
    rows = [
        row for row in csv_reader.DictReader(StringIO(csv.render(fill(kind, material)))) if row["field"] == ask.field
    ]
    said = "\n".join(" ".join(map(str, row.values())) for row in rows)
    if ask.holds is None:
        assert not entry.recorded
        assert "Not recorded" in said
        assert f"`fields: {ask.field}:`" in said
        return
    assert entry.answer is not None
    wanted = ask.holds(material.report)
    assert wanted, "a row that expects nothing proves nothing"
    for text in wanted:
        assert text in said, f"{text} is not said in\n{said}"
    assert all(row["source"].startswith(("report: /", "attestation: /")) for row in rows)


@pytest.mark.parametrize(("kind", "ask"), ROWS)
def test_a_person_can_fill_each_field_in_their_words(kind: AnnexKind, ask: Ask, material: Material) -> None:
    words = f"Our words about {ask.field}."
    filled = fill(kind, Material(material.report, Filing(fields={ask.field: words}), material.signature))
    (entry,) = [entry for entry in filled.entries if entry.field.id == ask.field]
    assert entry.recorded
    assert entry.stated == words
    assert words in html.render(filled)


@pytest.mark.parametrize("kind", PUBLISHED)
def test_every_place_that_a_source_names_is_in_the_report(kind: AnnexKind, material: Material) -> None:
    document: Any = material.report.model_dump(mode="json")
    sources = {entry.answer.source for entry in fill(kind, material).entries if entry.answer is not None}
    places = {place for source in sources for place in re.findall(r"report: ([^;]+)|, (/[^;,]+)", source)}
    assert places
    for place in {part.strip() for pair in places for text in pair for part in text.split(",") if part.strip()}:
        at = document
        for name in place.strip("/").split("/"):
            at = at[0] if name == "*" else at[name]
