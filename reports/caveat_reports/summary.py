"""What a report says, in the words that every format shares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from caveat_reports.formatting import count, fixed, of, p_value, plain, share, short_digest, signed, signed_fixed
from caveat_reports.next_steps import next_steps
from caveat_spec.audit import SHARES, ConceptLine, GateLine, GroupLine
from caveat_spec.report import Finding, Outcome, Report
from caveat_spec.results import (
    SMALL_GROUP,
    Comparison,
    ConceptTest,
    Estimate,
    Flag,
    FlagCode,
    GroupRow,
    Null,
)

OUTCOME_WORD: dict[Outcome, str] = {"pass": "passes", "fail": "fails", "inconclusive": "inconclusive"}
OUTCOME_NOUN: dict[Outcome, str] = {"pass": "pass", "fail": "fail", "inconclusive": "inconclusive"}
OUTCOME_SIGN: dict[Outcome, str] = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
FINDING_WORDS: dict[Finding, str] = {
    "influential": "influential",
    "not_influential": "not influential",
    "not_encoded": "not encoded",
    "inconclusive": "inconclusive",
}
METRIC_WORDS = {
    "selection_rate_ratio": "selection rate ratio",
    "selection_rate_difference": "selection rate difference",
    "true_positive_rate_difference": "true positive rate difference",
    "false_positive_rate_difference": "false positive rate difference",
    "equalized_odds_difference": "equalised odds difference",
    "conditional_selection_rate_ratio": "conditional selection rate ratio",
    "conditional_selection_rate_difference": "conditional selection rate difference",
}
FLAG_WORDS: dict[FlagCode, str] = {
    "degenerate": "degenerate layer",
    "zero_gradient": "zero gradient",
    "weak_cav": "weak CAV",
    "reference_unlike_targets": "reference unlike targets",
    "sets_differ_in_kind": "sets differ in kind",
    "moves_all_targets": "moves all targets",
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
    people: str = ""
    """What was measured in decisions and probabilities, where it was; a sentence."""
    decided_by: str = ""
    """Which figure decided, in a sentence."""
    next_steps: list[str] = field(default_factory=list)
    """What would settle it, where it is open."""


@dataclass(frozen=True)
class Pair:
    """What a report holds about one concept and one target: the tests by association, and the measured change."""

    concept: str
    target: str
    tests: list[ConceptTest]
    intervention: ConceptTest | None
    lines: list[Line]
    notes: list[str]
    """What a single test does not say: which concepts it controls for, and whether the layers agree."""

    @property
    def strongest(self) -> ConceptTest | None:
        """The largest effect by association, of a test that no flag blocks where there is one."""
        sound = [test for test in self.tests if not test.blocked]
        return max(sound or self.tests, key=lambda test: abs(test.effect.in_sd), default=None)

    @property
    def leading(self) -> ConceptTest:
        """The one test to quote: the measured change, or else the strongest association."""
        test = self.intervention or self.strongest
        assert test is not None, "a pair is made from its tests"
        return test


def title(report: Report) -> str:
    """What the report is about, in a few words: the title that the audit gives, or the model's digest."""
    found = report.audit.about
    named = None if found is None else found.title
    return f"Audit of {named}" if named else f"Audit of model {short_digest(report.audit.model)}"


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


def looks(report: Report) -> str:
    """How a sequential audit came to its end, in sentences; empty for any other audit."""
    found = report.sequential
    if found is None:
        return ""
    last, lines = found.looks[-1], len(report.audit.gate)
    taken = f"Look {len(found.looks)} of {len(found.planned)} was the last, at {share(last.share)} of the examples"
    if len(last.settled) == lines:
        why = "every line of the gate is settled"
    elif len(last.settled) + len(last.out_of_reach) == lines:
        open_ = ", ".join(str(number + 1) for number in last.out_of_reach)
        why = f"all examples would settle line {open_} of the gate with a chance of less than one in twenty"
    else:
        why = "there are no more"
    made = f"{count(last.passes.total)} passes were made in place of {count(found.fixed.total)}"
    saved = f" ({share(found.saved)} saved)" if found.saved > 0 else ""
    return (
        f"{taken}: {why}. {made}{saved}. The looks spent {found.spent:.3g} of alpha {report.audit.method.alpha:g}, "
        f"the last {found.alpha:.3g}: figures about concepts have {100 * (1 - report.alpha):.4g} % intervals, which "
        "hold at whatever look the audit stops."
    )


def lines(report: Report) -> list[Line]:
    """The lines of the gate, in its order."""
    return [
        Line(
            number=line.line + 1,
            subject=line.subject,
            outcome=line.outcome,
            finding=None if line.finding is None else FINDING_WORDS[line.finding],
            reason=line.explanation,
            people=_people_words(report, report.audit.gate[line.line], failed=line.outcome == "fail"),
            decided_by=_decided_by(report, report.audit.gate[line.line])
            if line.outcome != "inconclusive"
            else _decided_by(report, report.audit.gate[line.line]).replace(" decided", " would decide", 1),
            next_steps=next_steps(report, line),
        )
        for line in report.verdict.lines
    ]


def about(report: Report) -> list[tuple[str, str]]:
    """What the audit says about its model: a word and what is said, for the first screen."""
    found = report.audit.about
    told = [] if found is None else [("Owner", found.owner), ("Purpose", found.purpose), ("Policy", found.policy)]
    return [(word, said) for word, said in told if said is not None]


def _measured(report: Report, line: ConceptLine) -> ConceptTest | None:
    pair = line.concept, line.target
    return next((one for one in report.interventions if (one.concept, one.target) == pair), None)


def _people_words(report: Report, line: GateLine, *, failed: bool) -> str:
    """`12.0 % of decisions flip (6.1 % to 20.4 %), and the probability of carton changes by +4.2 …`

    Of a line that failed, what failed comes first: `Watermark changes carton by +2.0 sd; 0.0 % of decisions flip …`.
    """
    measured = _measured(report, line) if isinstance(line, ConceptLine) else None
    if measured is None or not isinstance(line, ConceptLine):
        return ""
    effect = measured.effect
    told = [] if effect.in_decisions is None else [flips(effect.in_decisions)]
    if effect.in_probability is not None:
        changes = f"the probability of {measured.target} changes by {points(effect.in_probability)}"
        told.insert(0 if line.unit == "probability" else len(told), changes)
    said = ", and ".join(told)
    if said and failed and line.unit not in SHARES and line.must != "not_grow":
        said = f"{_score_words(measured, line)}; {said}"
    return said and f"{said[:1].upper()}{said[1:]}, on {count(measured.n_concept)} matched pairs."


def _score_words(measured: ConceptTest, line: ConceptLine) -> str:
    """`watermark changes the score of carton by +2.0 sd, where at most ±0.75 sd are allowed`."""
    change = measured.effect.in_sd if line.unit == "sd" else measured.effect.value
    bound = ("at most", "allowed") if line.must == "not_matter" else ("more than", "asked for")
    return (
        f"{line.concept} changes the score of {line.target} by {signed(change)} {line.unit}, "
        f"where {bound[0]} {tolerance_words(line)} are {bound[1]}"
    )


def _decided_by(report: Report, line: GateLine) -> str:
    """Which figure decided a line, so that no other one beside it is mistaken for it."""
    if isinstance(line, GroupLine):
        return "The metric's interval decided." if line.judge == "interval" else "The metric's value decided."
    if line.must == "not_grow":
        return "The differences from the baseline decided."
    if line.require == "both":
        return "The measured change and the effects at the layers decided together."
    if _measured(report, line) is not None:
        beside = "; the effects at the layers say where in the model, and the TCAV score decides nothing"
        return (
            f"The change measured on matched pairs decided, against the tolerance of {tolerance_words(line)}"
            f"{beside if report.associations else ''}."
        )
    return (
        f"The effects and finite steps at the layers decided, against the tolerance of {tolerance_words(line)}; the "
        "TCAV score is shown beside them and decides nothing."
    )


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
            certain = ", with its whole interval" if line.judge == "interval" else ""
            question = (f"Is the {METRIC_WORDS[line.metric]} {bound(line)} in ", f"{certain}?")
            asked.setdefault(question, []).append(line.group)
    return [before + _any_of(names) + after for (before, after), names in asked.items()]


def bound(line: GroupLine) -> str:
    """`at least 0.8 and at most 1.25`."""
    low = [f"at least {line.at_least:g}"] if line.at_least is not None else []
    high = [f"at most {line.at_most:g}"] if line.at_most is not None else []
    return " and ".join(low + high)


def pairs(report: Report) -> list[Pair]:
    """The report's tests by concept and target, in the order of their first mention."""
    keys = dict.fromkeys((test.concept, test.target) for test in (*report.associations, *report.interventions))
    said = {line.number: line for line in lines(report)}
    return [
        Pair(
            concept=concept,
            target=target,
            tests=[test for test in report.associations if (test.concept, test.target) == (concept, target)],
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
    others = asked.controlling_for if asked is not None else []
    tested = [f"Controls for {_any_of(others, 'and')}: their directions were taken out first."] if others else []
    together = [one.sentence for one in report.layer_findings if (one.concept, one.target) == (concept, target)]
    return tested + together


def concept_lines(report: Report, concept: str, target: str) -> Iterator[tuple[int, ConceptLine]]:
    """The gate's lines about one concept and one target, with their positions."""
    for position, line in enumerate(report.audit.gate):
        if isinstance(line, ConceptLine) and (line.concept, line.target) == (concept, target):
            yield position, line


def unit_of(report: Report, target: str) -> str:
    """The unit of a target's number."""
    return next((one.unit for one in report.plan.targets if one.target == target), "logit")


def effect_words(test: ConceptTest, unit: str) -> str:
    """`+1.37 sd (+1.10 to +1.62); +1.49 logit`."""
    low, high = test.effect.interval_in_sd
    return (
        f"{signed_fixed(test.effect.in_sd)} sd ({signed_fixed(low)} to {signed_fixed(high)}); "
        f"{signed(test.effect.value)} {unit}"
    )


def finite_step_words(test: ConceptTest) -> str:
    """`+2.01 sd`, with probabilities and decisions where they were asked for; a dash where no step was taken."""
    step = test.finite_step
    if step is None:
        return "–"
    shares = [step.in_probability and points(step.in_probability), step.in_decisions and flips(step.in_decisions)]
    return "; ".join([f"{signed_fixed(step.in_sd)} sd", *(one for one in shares if one)])


def points(moved: Estimate) -> str:
    """A change of a probability: `+4.2 percentage points (+3.1 to +5.4)`."""
    value, low, high = (signed(100 * one) for one in (moved.value, *moved.interval))
    return f"{value} percentage points ({low} to {high})"


def flips(flipped: Estimate) -> str:
    """A share of decisions: `12.0 % of decisions flip (6.1 % to 20.4 %)`."""
    return f"{share(flipped.value)} of decisions flip ({share(flipped.interval[0])} to {share(flipped.interval[1])})"


def tolerance_words(line: ConceptLine) -> str:
    """`±0.1 sd`, `±5 percentage points`, `5 % of decisions`."""
    match line.unit:
        case "decisions":
            return f"{100 * line.tolerance:g} % of decisions"
        case "probability":
            return f"±{100 * line.tolerance:g} percentage points"
        case unit:
            return f"±{line.tolerance:g} {unit}"


def score_words(test: ConceptTest) -> str:
    """`1.00 (0.94 to 1.00)`, and a dash where there is no score."""
    if test.score is None:
        return "–"
    low, high = test.score.interval
    return f"{fixed(test.score.value)} ({fixed(low)} to {fixed(high)})"


def null_words(null: Null) -> str:
    """What takes the concept's place where only chance is at work."""
    if null.kind == "swapped_pairs":
        return f"{count(null.sets)} random swaps within pairs"
    return f"{count(null.sets)} random sets in place of the concept"


def intervention_sentences(test: ConceptTest, unit: str) -> list[str]:
    """What was measured on the same examples without and with the concept."""
    low, high = test.effect.interval
    pairs, decisions = count(test.n_concept), test.decisions
    sentences = [
        f"Adding {test.concept} to {pairs} examples changed {test.target} by {signed(test.effect.value)} {unit} "
        f"({signed(low)} to {signed(high)}), p {p_value(test.effect.p)}."
    ]
    if decisions is None:
        return sentences
    if decisions.probability_without is not None and decisions.probability_with is not None:
        before, after = plain(decisions.probability_without), plain(decisions.probability_with)
        moved = test.effect.in_probability
        by = "" if moved is None else f", by {points(moved)}"
        sentences.append(f"Its mean probability went from {before} to {after}{by}.")
    flipped = "" if test.effect.in_decisions is None else f": {flips(test.effect.in_decisions)}"
    if decisions.flips_to or decisions.flips_from:
        to, away = (
            ("became favourable", "unfavourable")
            if decisions.classes is None
            else (f"flipped to {test.target}", "away from it")
        )
        sentences.append(
            f"{count(decisions.flips_to)} of {pairs} decisions {to}, {count(decisions.flips_from)} {away}{flipped}."
        )
    else:
        sentences.append(f"No decision flipped{flipped}.")
    if decisions.rank is not None and decisions.classes is not None:
        sentences.append(
            f"No other of {count(decisions.classes)} classes rose as much."
            if decisions.rank == 1
            else f"Among {count(decisions.classes)} classes ranked by rise it is number {count(decisions.rank)}."
        )
    return sentences


def flags(tests: list[ConceptTest]) -> list[tuple[Flag, list[str]]]:
    """Each distinct flag once, with the places it was raised at."""
    found: dict[tuple[str, str], tuple[Flag, list[str]]] = {}
    for test in tests:
        for flag in test.flags:
            _, places = found.setdefault((flag.code, flag.sentence), (flag, []))
            places.append(f"{test.concept} → {test.target} at {test.place}")
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


def comparison_title(group: Comparison) -> str:
    """`loans: recorded decisions, by race and sex`."""
    return f"{group.name}: {group.decisions}, by {' and '.join(group.sensitive)}"


def comparison_notes(group: Comparison) -> list[str]:
    """What a table of groups does not say by itself: small groups, empty ones, and people in none."""
    notes = []
    if small := group.small:
        people = sum(row.n for row in small)
        notes.append(
            f"{_capital(of(len(small), len(group.rows), 'group'))} {'has' if len(small) == 1 else 'have'} fewer than "
            f"{SMALL_GROUP} people ({count(people)} in all), where one decision moves a rate by over three points. "
            "They are shown, and count in every metric; the intervals are as wide as so few people make them."
        )
    if group.empty:
        notes.append(f"Nobody is in {_any_of(group.empty, 'or')}.")
    if group.left_out:
        notes.append(f"{count(group.left_out)} people have no value in a sensitive column and are in no group.")
    if group.conditional is not None:
        notes.append(group.conditional.sentence)
    return notes


@dataclass(frozen=True)
class CrossTable:
    """Groups by two sensitive columns: a row for each value of the first, a column for each value of the second."""

    across: tuple[str, str]
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], GroupRow]


def cross_table(group: Comparison) -> CrossTable | None:
    """The intersections of two sensitive columns as a table; None for any other number of columns."""
    if len(group.sensitive) != 2 or not all(len(row.values) == 2 for row in group.rows):
        return None
    cells = {(row.values[0], row.values[1]): row for row in group.rows}
    first, second = (sorted({key[side] for key in cells}) for side in (0, 1))
    return CrossTable((group.sensitive[0], group.sensitive[1]), first, second, cells)


def cell_words(row: GroupRow | None) -> str:
    """`81.3 % (75.0 % to 86.5 %), 197 people`; `nobody` for an empty cell."""
    if row is None:
        return "nobody"
    return f"{estimate_words(row.selection_rate, as_share=True)}, {count(row.n)} people{', few' if row.small else ''}"


def given_words(group: Comparison) -> str | None:
    """`given income and city`; None where nothing is given, or it could not be compared."""
    return None if group.conditional is None else f"given {_any_of(group.conditional.given, 'and')}"


def _any_of(names: list[str], last: str = "or", most: int = 5) -> str:
    """`a`, `a or b`, `a, b or c`; after a few, how many more."""
    shown = list(dict.fromkeys(names))
    if len(shown) > most:
        return f"{', '.join(shown[: most - 1])} {last} {count(len(shown) - most + 1)} more"
    return f" {last} ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
