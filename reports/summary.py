"""What a report says, in the words that every format shares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from api_spec.audit import ConceptLine, GroupLine
from api_spec.report import Estimate, Finding, Flag, FlagCode, GroupReport, Intervention, Null, Outcome, Report, Row
from reports.numbers import count, fixed, of, p_value, plain, share, short_digest, signed, signed_fixed

OUTCOME_WORD: dict[Outcome, str] = {"pass": "passes", "fail": "fails", "inconclusive": "inconclusive"}
OUTCOME_NOUN: dict[Outcome, str] = {"pass": "pass", "fail": "fail", "inconclusive": "inconclusive"}
OUTCOME_SIGN: dict[Outcome, str] = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
FINDING_WORDS: dict[Finding, str] = {
    "influential": "influential",
    "not_influential": "not influential",
    "inconclusive": "inconclusive",
}
METRIC_WORDS = {
    "selection_rate_ratio": "selection rate ratio",
    "selection_rate_difference": "selection rate difference",
    "true_positive_rate_difference": "true positive rate difference",
    "false_positive_rate_difference": "false positive rate difference",
    "equalized_odds_difference": "equalised odds difference",
}
FLAG_WORDS: dict[FlagCode, str] = {
    "degenerate": "degenerate layer",
    "zero_gradient": "zero gradient",
    "weak_cav": "weak CAV",
    "confounded_negatives": "confounded negatives",
    "unstable_estimators": "unstable estimators",
    "unstable_negatives": "unstable negatives",
    "few_examples": "few examples",
}
CORRECTION_WORDS = {"holm": "Holm", "benjamini_hochberg": "Benjamini-Hochberg", "none": "uncorrected"}
_MUST = {
    "matter": "? It must.",
    "not_matter": "? It must not.",
    "not_grow": " more than in the baseline? It must not.",
}
WORST_FIRST: tuple[Outcome, ...] = ("fail", "inconclusive", "pass")


@dataclass(frozen=True)
class Line:
    """One line of the gate: what was asked, what came of it, and why; `number` counts from 1."""

    number: int
    subject: str
    outcome: Outcome
    finding: str | None
    reason: str


@dataclass(frozen=True)
class Pair:
    """What a report holds about one concept and one target, by both witnesses."""

    concept: str
    target: str
    rows: list[Row]
    intervention: Intervention | None
    lines: list[Line]
    notes: list[str]
    """What a single row does not say: beyond which concepts it was tested, and whether the layers agree."""


def title(report: Report) -> str:
    """What the report is about, in a few words."""
    return f"Audit of model {short_digest(report.audit.model)}"


def headline(report: Report) -> str:
    """The verdict in one or two words."""
    match report.verdict.outcome:
        case "pass":
            return "Passes"
        case "fail":
            return "Fails"
        case "inconclusive":
            return "Inconclusive"
        case None:
            return "No verdict"


def explanation(report: Report) -> str:
    """The verdict in one sentence."""
    outcomes = [line.outcome for line in report.verdict.lines]
    lines = len(outcomes)
    failed, open_ = outcomes.count("fail"), outcomes.count("inconclusive")
    match report.verdict.outcome:
        case None:
            return "No gate was set, so the figures below stand without a verdict."
        case "pass":
            return f"{_capital(of(lines, lines, 'line'))} of the gate {'holds' if lines == 1 else 'hold'}."
        case "fail":
            rest = f", and {count(open_)} could not be settled" if open_ else ""
            verb = "does not hold" if failed == 1 else "do not hold"
            return f"{_capital(of(failed, lines, 'line'))} of the gate {verb}{rest}."
        case "inconclusive":
            return f"{_capital(of(open_, lines, 'line'))} of the gate could not be settled; none failed."


def lines(report: Report) -> list[Line]:
    """The lines of the gate, in its order."""
    return [
        Line(
            number=line.line + 1,
            subject=line.subject,
            outcome=line.outcome,
            finding=None if line.finding is None else FINDING_WORDS[line.finding],
            reason=line.reason,
        )
        for line in report.verdict.lines
    ]


def worst_first(report: Report) -> list[Line]:
    """The lines of the gate, failures before doubts before passes."""
    return sorted(lines(report), key=lambda line: (WORST_FIRST.index(line.outcome), line.number))


def questions(report: Report) -> list[str]:
    """What the gate asks, in plain words: lines that ask the same of several concepts or groups are one question."""
    asked: dict[tuple[str, ...], list[str]] = {}
    for line in report.audit.gate:
        if isinstance(line, ConceptLine):
            asked.setdefault((f"Does {line.target} depend on ", _MUST[line.must]), []).append(line.concept)
        else:
            asked.setdefault((f"Is the {METRIC_WORDS[line.metric]} {bound(line)} in ", "?"), []).append(line.group)
    return [before + _any_of(names) + after for (before, after), names in asked.items()]


def bound(line: GroupLine) -> str:
    """`at least 0.8 and at most 1.25`."""
    low = [f"at least {line.at_least:g}"] if line.at_least is not None else []
    high = [f"at most {line.at_most:g}"] if line.at_most is not None else []
    return " and ".join(low + high)


def pairs(report: Report) -> list[Pair]:
    """The report's rows and interventions by concept and target, in the order of their first mention."""
    keys = dict.fromkeys(
        [(row.concept, row.target) for row in report.rows]
        + [(witness.concept, witness.target) for witness in report.interventions]
    )
    said = {line.number: line for line in lines(report)}
    return [
        Pair(
            concept=concept,
            target=target,
            rows=[row for row in report.rows if (row.concept, row.target) == (concept, target)],
            intervention=next(
                (one for one in report.interventions if (one.concept, one.target) == (concept, target)), None
            ),
            lines=[
                said[position + 1] for position, _ in concept_lines(report, concept, target) if position + 1 in said
            ],
            notes=_notes(report, concept, target),
        )
        for concept, target in keys
    ]


def _notes(report: Report, concept: str, target: str) -> list[str]:
    asked = report.audit.concepts.get(concept)
    beyond = asked.beyond if asked is not None else []
    behind = _any_of(beyond, "and") if beyond else ""
    tested = [f"Tested beyond {behind}: what it shares with that was taken out first."] if beyond else []
    together = [one.sentence for one in report.consistency if (one.concept, one.target) == (concept, target)]
    return tested + together


def concept_lines(report: Report, concept: str, target: str) -> Iterator[tuple[int, ConceptLine]]:
    """The gate's lines about one concept and one target, with their positions."""
    for position, line in enumerate(report.audit.gate):
        if isinstance(line, ConceptLine) and (line.concept, line.target) == (concept, target):
            yield position, line


def unit_of(report: Report, target: str) -> str:
    """The unit of a target's number."""
    return next((one.unit for one in report.plan.targets if one.target == target), "logit")


def effect_words(row: Row, unit: str) -> str:
    """`+1.37 sd (+1.10 to +1.62); +1.49 logit`."""
    low, high = row.effect.interval_in_sd
    return (
        f"{signed_fixed(row.effect.in_sd)} sd ({signed_fixed(low)} to {signed_fixed(high)}); "
        f"{signed(row.effect.value)} {unit}"
    )


def whole_step_words(row: Row) -> str:
    """`+2.01 sd`, and a dash where none was taken."""
    return "–" if row.whole_step is None else f"{signed_fixed(row.whole_step.in_sd)} sd"


def score_words(row: Row) -> str:
    """`1.00 (0.94 to 1.00)`."""
    low, high = row.score.interval
    return f"{fixed(row.score.value)} ({fixed(low)} to {fixed(high)})"


def null_words(null: Null) -> str:
    """What plays the concept where only chance is at work."""
    if null.kind == "swapped_pairs":
        return f"{count(null.sets)} random swaps within pairs"
    return f"{count(null.sets)} random sets that play the concept"


def intervention_sentences(witness: Intervention, unit: str) -> list[str]:
    """What was measured on the same examples without and with the concept."""
    low, high = witness.interval
    sentences = [
        f"Adding {witness.concept} to {count(witness.pairs)} examples changed {witness.target} by "
        f"{signed(witness.change)} {unit} ({signed(low)} to {signed(high)}), p {p_value(witness.p)}."
    ]
    if witness.probability_without is not None and witness.probability_with is not None:
        sentences.append(
            f"Its mean probability went from {plain(witness.probability_without)} to {plain(witness.probability_with)}."
        )
    if witness.flips_to or witness.flips_from:
        to, away = (
            ("became favourable", "unfavourable")
            if witness.classes is None
            else (f"flipped to {witness.target}", "away from it")
        )
        sentences.append(
            f"{count(witness.flips_to)} of {count(witness.pairs)} decisions {to}, {count(witness.flips_from)} {away}."
        )
    else:
        sentences.append("No decision flipped.")
    if witness.rank is not None and witness.classes is not None:
        sentences.append(
            f"No other of {count(witness.classes)} classes rose as much."
            if witness.rank == 1
            else f"Among {count(witness.classes)} classes ranked by rise it is number {count(witness.rank)}."
        )
    return sentences


def flags(rows: list[Row]) -> list[tuple[Flag, list[str]]]:
    """Each distinct flag once, with the places it was raised at."""
    found: dict[tuple[str, str], tuple[Flag, list[str]]] = {}
    for row in rows:
        for flag in row.flags:
            _, places = found.setdefault((flag.code, flag.sentence), (flag, []))
            places.append(f"{row.concept} → {row.target} at {row.layer}")
    return list(found.values())


def metric_words(name: str) -> str:
    """A group metric's name in words."""
    return METRIC_WORDS.get(name, name.replace("_", " "))


def estimate_words(estimate: Estimate | None, *, as_share: bool = False) -> str:
    """`0.779 (0.731 to 0.828)`, or in per cent; a dash for what could not be computed."""
    if estimate is None:
        return "–"
    low, high = estimate.interval
    if as_share:
        return f"{share(estimate.value)} ({share(low)} to {share(high)})"
    return f"{fixed(estimate.value, 3)} ({fixed(low, 3)} to {fixed(high, 3)})"


def group_title(group: GroupReport) -> str:
    """`loans: recorded decisions, by race and sex`."""
    return f"{group.name}: {group.decisions}, by {' and '.join(group.sensitive)}"


def _any_of(names: list[str], last: str = "or", most: int = 5) -> str:
    """`a`, `a or b`, `a, b or c`; after a few, how many more."""
    shown = list(dict.fromkeys(names))
    if len(shown) > most:
        return f"{', '.join(shown[: most - 1])} {last} {count(len(shown) - most + 1)} more"
    return f" {last} ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
