"""What a report says about a model, in pieces that several forms ask for."""

from __future__ import annotations

from collections.abc import Callable

from caveat_reports import summary
from caveat_reports.annexes import adverse_impact
from caveat_reports.annexes.form import Answer, Fill, Material, Missing, Table
from caveat_reports.formatting import count, p_value, plain, share, short_digest, signed
from caveat_reports.versions import shown_versions
from caveat_spec.results import Estimate, GroupRow


def purpose(material: Material) -> Answer | Missing:
    """What the model decides, as the audit says."""
    about = material.report.audit.about
    if about is None or about.purpose is None:
        return Missing("The audit does not say: give `about: purpose`")
    return Answer("report: /audit/about/purpose", (about.purpose,))


def owner(material: Material) -> Answer | Missing:
    """Who answers for the model, as the audit says."""
    about = material.report.audit.about
    if about is None or about.owner is None:
        return Missing("The audit does not say: give `about: owner`")
    return Answer("report: /audit/about/owner", (about.owner,))


def identity(material: Material) -> Answer:
    """The audited bytes."""
    about = material.report.audit.about
    titled = [] if about is None or about.title is None else [about.title]
    return Answer("report: /audit/model", (*titled, f"ONNX model {material.report.audit.model}."))


def software(material: Material) -> Answer:
    """What ran the model during the audit."""
    engine = material.report.engine
    versions = ", ".join(f"{name} {version}" for name, version in sorted(engine.versions.items()))
    return Answer(
        "report: /engine",
        (f"During the audit the model ran under {engine.provider} with {versions} (Caveat {engine.caveat}).",),
    )


def outputs(material: Material) -> Answer | Missing:
    """The numbers of the model that were audited, and how they spread."""
    targets = material.report.plan.targets
    if not targets:
        return Missing("The audit looks at recorded decisions only, not at the model's outputs")
    rows = tuple((one.target, one.sentence, one.unit, signed(one.mean), plain(one.sd)) for one in targets)
    head = ("Output", "Read from", "Unit", "Mean", "Standard deviation")
    return Answer("report: /plan/targets", tables=(Table("Outputs that were audited", head, rows, words=3),))


def layers(material: Material) -> Answer | Missing:
    """The layers inside the model that were audited."""
    found = material.report.plan.layers
    if not found:
        return Missing("The audit looks at no layer")
    rows = tuple(
        (one.layer, one.operator, " × ".join(map(str, one.shape)), count(one.features), count(one.depth))
        for one in found
    )
    head = ("Layer", "Operator", "Shape", "Features", "Depth")
    return Answer("report: /plan/layers", tables=(Table("Layers that were audited", head, rows, words=3),))


def data(material: Material) -> Answer:
    """The example sets of the audit."""
    rows = tuple((one.name, one.kind, one.source, count(one.count)) for one in material.report.plan.examples)
    return Answer(
        "report: /plan/examples",
        tables=(Table("Data of the audit", ("Set", "Kind", "Digest", "Examples"), rows, words=3),),
    )


def method(material: Material) -> Answer:
    """How concepts and groups were tested."""
    settings = material.report.audit.method
    sentences = [
        f"Intervals leave out {plain(material.report.alpha)}; p-values of the tests by association are corrected over "
        f"all of them ({summary.CORRECTION_WORDS[settings.correction]})."
        if material.report.associations
        else f"Intervals leave out {plain(material.report.alpha)}.",
        f"Seed {settings.seed}: the same audit of the same bytes gives the same report.",
    ]
    checks = material.report.plan.gradient_checks
    if checks:
        worst = max(checks, key=lambda check: check.relative_error / check.tolerance)
        sentences.append(
            f"{count(len(checks))} gradients were compared with finite differences; the largest relative error was "
            f"{plain(worst.relative_error, 2)} (tolerance {plain(worst.tolerance, 2)})."
        )
    return Answer("report: /audit/method, /plan/gradient_checks", tuple(sentences))


def verdict(material: Material) -> Answer | Missing:
    """Each line of the gate with what came of it."""
    lines = material.report.verdict.lines
    if not lines:
        return Missing("The audit sets no gate, so that nothing was decided")
    rows = tuple((one.subject, one.outcome, one.explanation) for one in lines)
    return Answer(
        "report: /verdict",
        (f"{summary.headline(material.report)}. {summary.explanation(material.report)}",),
        (Table("What was asked, and what came of it", ("Condition", "Outcome", "Reason"), rows, words=3),),
    )


def concepts(material: Material) -> Answer | Missing:
    """How much each concept changes each output: measured on matched pairs where there are some."""
    found = summary.pairs(material.report)
    if not found:
        return Missing("The audit tests no concept")
    rows = []
    for pair in found:
        test = pair.leading
        low, high = test.effect.interval_in_sd
        evidence = "measured on matched pairs" if test.evidence == "intervention" else f"association at {test.place}"
        change = f"{signed(test.effect.in_sd)} sd ({signed(low)} to {signed(high)})"
        rows.append((pair.concept, pair.target, evidence, change, p_value(test.effect.deciding_p)))
    head = ("Concept", "Output", "Evidence", "Change, with interval", "p")
    return Answer(
        "report: /tests",
        tables=(Table("Dependence on concepts, in standard deviations of the output", head, tuple(rows), words=4),),
    )


def groups(material: Material) -> Answer | Missing:
    """Rates of groups of people: single columns and intersections."""
    return _groups(material, lambda sensitive: True, "The audit compares no groups of people")


def single_groups(material: Material) -> Answer | Missing:
    """Rates by one column."""
    return _groups(material, lambda sensitive: sensitive == 1, "The audit compares no groups by a single column")


def intersections(material: Material) -> Answer | Missing:
    """Rates by several columns together."""
    missing = "The audit compares no intersections: give a group several `sensitive` columns"
    return _groups(material, lambda sensitive: sensitive > 1, missing)


def _groups(material: Material, wanted: Callable[[int], bool], missing: str) -> Answer | Missing:
    found = [one for one in material.report.comparisons if wanted(len(one.sensitive))]
    if not found:
        return Missing(missing)
    tables = []
    for one in found:
        labelled = any(row.true_positive_rate is not None for row in one.rows)
        errors = ("True positive rate", "False positive rate") if labelled else ()
        notes = [f"{count(one.left_out)} people have no value in these columns."] if one.left_out else []
        notes += [f"{summary.metric_words(name)}: {_words(metric)}." for name, metric in one.metrics.items()]
        tables.append(
            Table(
                f"{one.name}: {one.decisions}, by {' and '.join(one.sensitive)}",
                ("Group", "People", "Selection rate", *errors),
                tuple(_row(row, labelled) for row in one.rows),
                tuple(notes),
            )
        )
    return Answer("report: /comparisons", tables=tuple(tables))


def _row(row: GroupRow, labelled: bool) -> tuple[str, ...]:
    errors = (row.true_positive_rate, row.false_positive_rate) if labelled else ()
    return (row.group, count(row.n), _share(row.selection_rate), *map(_share, errors))


def _share(rate: Estimate | None) -> str:
    return "–" if rate is None else f"{share(rate.value)} ({share(rate.interval[0])} to {share(rate.interval[1])})"


def _words(metric: Estimate) -> str:
    return f"{plain(metric.value)} ({plain(metric.interval[0])} to {plain(metric.interval[1])})"


def impact(material: Material) -> Answer | Missing:
    """Adverse impact of every comparison."""
    tables = (
        adverse_impact.table(f"{one.name}, by {' and '.join(one.sensitive)}", adverse_impact.groups_of(one))
        for one in material.report.comparisons
    )
    found = tuple(table for table in tables if table is not None)
    return Answer("report: /comparisons", tables=found) if found else Missing("The audit compares no groups of people")


def cautions(material: Material) -> Answer:
    """What the audit says against its own figures."""
    report = material.report
    flags = [
        f"{summary.FLAG_WORDS[flag.code].capitalize()}: {flag.sentence} ({'; '.join(places)})"
        for flag, places in summary.flags(report.associations)
    ]
    said = (*report.warnings, *flags) or ("The audit found nothing that speaks against its figures.",)
    return Answer("report: /warnings, /tests/*/flags", said)


def versions(material: Material) -> Answer | Missing:
    """The model beside other versions of it."""
    found = shown_versions(material.report)
    if not found:
        return Missing("The audit compares no versions: `compare:` does")
    sentences = [f"{one.title} ({short_digest(one.model)}): {said}" for one in found for said in one.sentences]
    return Answer("report: /versions", tuple(sentences))


def policy(material: Material) -> Answer | Missing:
    """The rule that the gate stands for, with its questions."""
    about = material.report.audit.about
    if about is None or about.policy is None:
        return Missing("The audit does not say: give `about: policy`")
    return Answer("report: /audit/about/policy", (about.policy, *summary.questions(material.report)))


def together(*fills: Fill) -> Fill:
    """A field that several pieces fill."""
    return lambda material: joined(*(fill(material) for fill in fills))


def joined(*answers: Answer | Missing) -> Answer | Missing:
    """Several answers as one; the first reason where none of them answers."""
    found = [one for one in answers if isinstance(one, Answer)]
    if not found:
        return answers[0]
    return Answer(
        "; ".join(dict.fromkeys(one.source for one in found)),
        tuple(sentence for one in found for sentence in one.sentences),
        tuple(table for one in found for table in one.tables),
    )
