"""The EU AI Act's technical documentation: the parts of Annex IV that an audit can document."""

from __future__ import annotations

from caveat_reports.annexes import fragments
from caveat_reports.annexes.form import Answer, Field, Fill, Form, Material, Missing, date_of_the_audit

FORM = Form(
    title="Technical documentation referred to in Article 11 (1): parts",
    publisher="European Union",
    citation="Regulation (EU) 2024/1689 (AI Act), Annex IV (OJ L, 2024/1689, 12.7.2024)",
    url="https://eur-lex.europa.eu/eli/reg/2024/1689/oj",
    scope="Every point of Annex IV, filled as far as one audit of the model can. An audit tests a model; most points "
    "are about the system around it, which its provider has to describe.",
    fields=(
        Field("1a", "Intended purpose, provider, and version in relation to previous ones", "1 (a)"),
        Field("1b", "Interaction with hardware, software and other AI systems", "1 (b)"),
        Field("1c", "Versions of relevant software, and requirements of updates", "1 (c)"),
        Field("1d", "Forms in which the system is placed on the market or put into service", "1 (d)"),
        Field("1e", "Hardware on which the system is intended to run", "1 (e)"),
        Field("1f", "Where the system is part of products: their photographs or illustrations", "1 (f)"),
        Field("1g", "User interface provided to the deployer", "1 (g)"),
        Field("1h", "Instructions for use", "1 (h)"),
        Field("2a", "Methods and steps of development, with systems and tools of third parties", "2 (a)"),
        Field("2b", "Design specifications: logic, choices, what is optimised, expected output", "2 (b)"),
        Field("2c", "System architecture and computational resources", "2 (c)"),
        Field("2d", "Data requirements: training data, provenance, selection, labelling, cleaning", "2 (d)"),
        Field("2e", "Human oversight, and technical measures to interpret outputs", "2 (e)"),
        Field("2f", "Pre-determined changes", "2 (f)"),
        Field("2g", "Validation and testing: data and their main characteristics", "2 (g)"),
        Field("2g_metrics", "Validation and testing: metrics, and potentially discriminatory impacts", "2 (g)"),
        Field("2g_reports", "Validation and testing: test reports, dated and signed", "2 (g)"),
        Field("2h", "Cybersecurity measures", "2 (h)"),
        Field("3_accuracy", "Capabilities and limitations: accuracy for specific groups of persons", "3"),
        Field("3_risks", "Foreseeable unintended outcomes and sources of risk, discrimination among them", "3"),
        Field("3_oversight", "Human oversight measures", "3"),
        Field("3_input", "Specifications on input data", "3"),
        Field("4", "Appropriateness of the performance metrics", "4"),
        Field("5", "Risk management system (Article 9)", "5"),
        Field("6", "Relevant changes through the lifecycle", "6"),
        Field("7", "Harmonised standards applied, or the solutions in their place", "7"),
        Field("8", "EU declaration of conformity (Article 47)", "8"),
        Field("9", "Post-market monitoring (Article 72)", "9"),
    ),
)


def _reports(material: Material) -> Answer | Missing:
    date = date_of_the_audit(material)
    if isinstance(date, Missing) or material.signature is None:
        return Missing("A report holds no clock and no signature: pass its attestation and the public key")
    keys = ", ".join(material.signature.keyids)
    return fragments.joined(date, Answer("attestation: /signatures", (f"Signed by the key {keys}.",)))


def _accuracy(material: Material) -> Answer | Missing:
    """Error rates by group, which need true outcomes."""
    groups = [one for one in material.report.comparisons if any(row.true_positive_rate for row in one.rows)]
    if not groups:
        return Missing("The audit has no true outcomes: give a group a `label`")
    return fragments.groups(material)


def _explained(material: Material) -> Answer | Missing:
    found = material.report.explanations
    if not found:
        return Missing("The audit explains no example: `explain:` does")
    names = ", ".join(dict.fromkeys(one.name for one in found))
    return Answer("report: /explanations", (f"Single outputs are explained in the report: {names}.",))


FILLS: dict[str, Fill] = {
    "1a": fragments.together(fragments.purpose, fragments.owner, fragments.identity, fragments.versions),
    "1c": fragments.software,
    "2b": fragments.outputs,
    "2c": fragments.layers,
    "2e": _explained,
    "2g": fragments.together(fragments.data, fragments.method),
    "2g_metrics": fragments.together(fragments.verdict, fragments.concepts, fragments.groups, fragments.impact),
    "2g_reports": _reports,
    "3_accuracy": _accuracy,
    "3_risks": fragments.together(fragments.verdict, fragments.cautions),
    "4": fragments.policy,
    "6": fragments.versions,
}
