"""A model risk summary in the order of the Federal Reserve's SR 11-7 (OCC Bulletin 2011-12)."""

from __future__ import annotations

from caveat_reports.annexes import fragments
from caveat_reports.annexes.form import Answer, Field, Fill, Form, Material, date_of_the_audit

DEVELOPMENT = "IV Model development and implementation"
FORM = Form(
    title="Model risk summary after SR 11-7",
    publisher="Board of Governors of the Federal Reserve System; Office of the Comptroller of the Currency",
    citation="SR 11-7 / OCC Bulletin 2011-12, Supervisory Guidance on Model Risk Management (4 April 2011)",
    url="https://www.federalreserve.gov/supervisionreg/srletters/sr1107.htm",
    scope="The guidance prescribes no form: these are the elements that its sections IV to VI ask to be documented, in "
    "its order. It was superseded by SR 26-2 (OCC Bulletin 2026-13) on 17 April 2026; say by which of them you file. "
    "One audit is a part of a validation. It is no effective challenge by itself.",
    fields=(
        Field("purpose", "Purpose, and intended use", DEVELOPMENT),
        Field("design", "Design, theory and logic", DEVELOPMENT),
        Field("development_data", "Data of the model's development", DEVELOPMENT),
        Field("testing", "Model testing: data and components that were tested", DEVELOPMENT),
        Field("use", "Use in practice, user feedback, conservatism", "IV Model use"),
        Field("validator", "Who validated, and their independence", "V Model validation"),
        Field("soundness", "Evaluation of conceptual soundness: what the output depends on", "V Key elements, 1"),
        Field("assumptions", "Evaluation of conceptual soundness: assumptions and limitations", "V Key elements, 1"),
        Field("process", "Ongoing monitoring: process verification", "V Key elements, 2"),
        Field("benchmark", "Ongoing monitoring: benchmarking against other models or versions", "V Key elements, 2"),
        Field("monitoring", "Ongoing monitoring: plan, thresholds, overrides", "V Key elements, 2"),
        Field("outcomes", "Outcomes analysis: outputs and outcomes of groups of people", "V Key elements, 3"),
        Field("impact", "Outcomes analysis: adverse impact", "V Key elements, 3"),
        Field("back_testing", "Outcomes analysis: back-testing", "V Key elements, 3"),
        Field("vendor", "Validation of vendor and third-party products", "V Vendor and other products"),
        Field("board", "Reports to the board and senior management", "VI Board and senior management"),
        Field("policy", "Policies and procedures that the conditions stand for", "VI Policies and procedures"),
        Field("roles", "Ownership, controls, compliance", "VI Roles and responsibilities"),
        Field("internal_audit", "Internal audit", "VI Internal audit"),
        Field("external", "External resources, and the scope of their work", "VI External resources"),
        Field("inventory", "Model in the inventory: name, version, owner", "VI Model inventory"),
        Field("conclusion", "Findings and conclusion of the validation", "VI Documentation"),
        Field("date", "Date of the validation", "VI Documentation"),
    ),
)


def _process(material: Material) -> Answer:
    said = "Model and data are identified by the digests of their bytes."
    return Answer(
        "report: /audit/model, /plan/examples, /engine, /audit/method, /plan/gradient_checks",
        (said, *fragments.software(material).sentences, *fragments.method(material).sentences),
    )


FILLS: dict[str, Fill] = {
    "inventory": fragments.together(fragments.identity, fragments.owner),
    "purpose": fragments.purpose,
    "design": fragments.together(fragments.outputs, fragments.layers),
    "testing": fragments.data,
    "soundness": fragments.concepts,
    "assumptions": fragments.cautions,
    "process": _process,
    "benchmark": fragments.versions,
    "outcomes": fragments.groups,
    "impact": fragments.impact,
    "policy": fragments.policy,
    "roles": fragments.owner,
    "conclusion": fragments.verdict,
    "date": date_of_the_audit,
}
