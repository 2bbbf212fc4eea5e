"""The one place where a verdict is made: from the figures of a report and the lines of a gate, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from api_spec.audit import ConceptLine, GateLine, GroupLine
from api_spec.base import Interval
from api_spec.baseline import differing_examples, moves
from api_spec.report import Finding, Intervention, LineVerdict, Outcome, Report, Row, Verdict

MAY_CLEAR = ("weak_cav", "unstable_estimators")
"""Flags of rows that may not accuse, but whose effect may still be seen to lie inside the tolerance."""


@dataclass(frozen=True)
class Opinion:
    """What one witness says, in one clause; `sign` is the direction of an influence."""

    finding: Finding
    because: str
    sign: int = 0


def decide(report: Report, gate: Sequence[GateLine], baseline: Report | None = None) -> Verdict:
    """The verdict on every line, and the worst of them; an inconclusive line passes only where its policy says so.

    `baseline` is an earlier report on the same examples, for the lines that say `must: not_grow`.
    """
    lines = []
    for position, line in enumerate(gate):
        if isinstance(line, GroupLine):
            lines.append(_group_verdict(report, position, line))
        elif line.must == "not_grow":
            lines.append(_growth_verdict(report, baseline, position, line))
        else:
            lines.append(_concept_verdict(report, position, line))
    outcomes = {line.outcome for line in lines}
    worst: tuple[Outcome, ...] = ("fail", "inconclusive", "pass")
    return Verdict(outcome=next((outcome for outcome in worst if outcome in outcomes), None), lines=lines)


def _concept_verdict(report: Report, position: int, line: ConceptLine) -> LineVerdict:
    rows = [row for row in report.rows if (row.concept, row.target) == (line.concept, line.target)]
    witness = next(
        (one for one in report.interventions if (one.concept, one.target) == (line.concept, line.target)),
        None,
    )
    alpha = report.audit.method.alpha
    opinion = _association(rows, line, alpha, alone=witness is None)
    if witness is not None:
        opinion = _together(opinion, _intervention(witness, line, alpha), line)
    wanted: Finding = "influential" if line.must == "matter" else "not_influential"
    outcome: Outcome = "pass" if opinion.finding == wanted else "fail"
    if opinion.finding == "inconclusive":
        outcome = line.when_inconclusive
    verb = "must matter" if line.must == "matter" else "must not matter"
    return LineVerdict(
        line=position,
        subject=f"{line.concept} {verb} to {line.target}",
        finding=opinion.finding,
        outcome=outcome,
        reason=_sentence(opinion.because),
    )


def _growth_verdict(report: Report, baseline: Report | None, position: int, line: ConceptLine) -> LineVerdict:
    opinion = _growth(report, baseline, line)
    outcomes: dict[Finding, Outcome] = {
        "influential": "fail",
        "not_influential": "pass",
        "inconclusive": line.when_inconclusive,
    }
    return LineVerdict(
        line=position,
        subject=f"{line.concept} must not matter more to {line.target} than in the baseline",
        finding=None,
        outcome=outcomes[opinion.finding],
        reason=_sentence(opinion.because),
    )


def _growth(report: Report, baseline: Report | None, line: ConceptLine) -> Opinion:
    """Whether a concept's figures grew beyond tolerance and noise, or surely stayed within the tolerance."""
    if baseline is None:
        return Opinion("inconclusive", "no baseline report was given to compare with (`--baseline`)")
    others = differing_examples(report, baseline)
    if others:
        return Opinion("inconclusive", f"the baseline was made on other examples: {', '.join(others)}")
    subject = f"{line.concept} → {line.target}"
    found = [move for move in moves(report, baseline) if move.subject.partition(" at ")[0] == subject]
    if not found:
        return Opinion(
            "inconclusive", f"the baseline has no figure of {line.concept} and {line.target} to compare with"
        )
    if line.unit == "logit":
        return Opinion("inconclusive", "growth is compared in standard deviations; give the tolerance with `unit: sd`")
    worst = max(found, key=lambda move: move.growth)
    where = f"the {worst.kind} of {worst.subject}"
    went = f"went from {_size(worst.before, line)} to {_size(worst.after, line)}"
    if worst.growth > line.tolerance and worst.beyond_noise:
        return Opinion("influential", f"{where} {went}, beyond noise ({worst.noise:.3g} sd)")
    if all(move.growth + move.noise <= line.tolerance for move in found):
        return Opinion("not_influential", f"no figure grew by more than the tolerance; most of all {where} {went}")
    return Opinion(
        "inconclusive", f"{where} {went}, which noise of {worst.noise:.3g} sd does not tell from the tolerance"
    )


def _association(rows: list[Row], line: ConceptLine, alpha: float, *, alone: bool) -> Opinion:
    """Influential at any sound layer, not influential where every sound layer's interval lies inside the tolerance.

    An effect is a slope. Where nothing was measured beside it (`alone`), a whole step has to say the same.
    """
    if not rows:
        return Opinion("inconclusive", f"the report has no row for {line.concept} and {line.target}")
    sound = [row for row in rows if not any(flag.withholds and flag.code not in MAY_CLEAR for flag in row.flags)]
    if not sound:
        return Opinion("inconclusive", "every layer is flagged: " + "; ".join(_flags(rows)))
    moved = [
        row
        for row in sound
        if row.effect.p_corrected < alpha
        and abs(_effect(row, line)) > line.tolerance
        and not any(flag.withholds for flag in row.flags)
    ]
    bent = [row for row in sound if alone and row.whole_step is not None]
    upheld = [row for row in moved if row not in bent or _upholds(row, line)]
    if moved and not upheld:
        row = max(moved, key=lambda row: abs(_effect(row, line)))
        return Opinion(
            "inconclusive",
            f"the slope at {row.layer} promises {_size(_effect(row, line), line)}, but {_bend(row, line)}",
        )
    if upheld:
        row = max(upheld, key=lambda row: abs(_effect(row, line)))
        return Opinion(
            "influential",
            f"at {row.layer} a step towards {line.concept} moves {line.target} by {_size(_effect(row, line), line)} "
            f"(corrected p {row.effect.p_corrected:.2g})",
            sign=1 if row.effect.value > 0 else -1,
        )
    wide = [row for row in sound if not _inside(_interval(row, line), line.tolerance)]
    if wide:
        row = max(wide, key=lambda row: max(map(abs, _interval(row, line))))
        return Opinion("inconclusive", _undecided(row, line, alpha))
    for row in sound:
        if row.cross_check is not None and abs(other := _other_effect(row, line)) > line.tolerance:
            return Opinion(
                "inconclusive",
                f"at {row.layer} the estimators disagree: {row.estimator} gives the effect "
                f"{_size(_effect(row, line), line)} and {row.cross_check.estimator} {_size(other, line)}",
            )
    for row in bent:
        if not _inside(_whole(row, line), line.tolerance):
            return Opinion("inconclusive", f"the slope at {row.layer} is within the tolerance, but {_bend(row, line)}")
    if not any(row.accuracy.encoded for row in rows) and line.when_not_encoded == "inconclusive":
        return Opinion(
            "inconclusive", f"no audited layer encodes {line.concept}, so its absence of effect says nothing"
        )
    row = max(sound, key=lambda row: max(map(abs, _interval(row, line))))
    return Opinion(
        "not_influential",
        f"at every audited layer the effect of {line.concept} on {line.target} lies within "
        f"{_size(line.tolerance, line, signed=False)} "
        f"(widest interval {_range(_interval(row, line), line)} at {row.layer})",
    )


def _upholds(row: Row, line: ConceptLine) -> bool:
    """Whether a whole step moves the target as the slope says: beyond the tolerance, to the same side."""
    assert row.whole_step is not None
    whole = row.whole_step.in_sd if line.unit == "sd" else row.whole_step.value
    return abs(whole) > line.tolerance and (whole > 0) == (row.effect.value > 0)


def _bend(row: Row, line: ConceptLine) -> str:
    assert row.whole_step is not None
    whole = row.whole_step.in_sd if line.unit == "sd" else row.whole_step.value
    return (
        f"a whole step towards {line.concept} moves {line.target} by {_size(whole, line)} "
        f"({_range(_whole(row, line), line)}): the model bends in between, and pairs would have to tell"
    )


def _whole(row: Row, line: ConceptLine) -> Interval:
    assert row.whole_step is not None
    return row.whole_step.interval_in_sd if line.unit == "sd" else row.whole_step.interval


def _undecided(row: Row, line: ConceptLine, alpha: float) -> str:
    """Why a row that is neither beyond nor inside the tolerance settles nothing, and what would settle it."""
    effect, interval = _effect(row, line), _interval(row, line)
    sentence = f"at {row.layer} the effect {_size(effect, line)} has the interval {_range(interval, line)}"
    weak = [flag.sentence for flag in row.flags if flag.code == "weak_cav"]
    if weak:
        return f"{sentence}, and the CAV is weak: {weak[0]}"
    half, room = (interval[1] - interval[0]) / 2, line.tolerance - abs(effect)
    if room > 0:
        return (
            f"{sentence}, too wide for the tolerance {_size(line.tolerance, line, signed=False)}; "
            f"{_more_examples(row, (room / half) ** 2)} would settle it if the effect stays where it is"
        )
    if row.effect.p_corrected >= alpha:
        return f"{sentence}, beyond the tolerance but not beyond chance (corrected p {row.effect.p_corrected:.2g})"
    return sentence


def _more_examples(row: Row, wanted: float) -> str:
    """Which examples bring the variance of the effect down to a share `wanted` of what it is, and how many."""
    from_targets = row.effect.target_share or 0.0
    from_concept = (1 - from_targets) * row.n_pool / (row.n_concept + row.n_pool)
    share, kind, now = max(
        (from_targets, "target", row.n_target),
        (from_concept, "concept", row.n_concept),
        (1 - from_targets - from_concept, "pool", row.n_pool),
    )
    if share > 1 - wanted:
        return f"about {math.ceil(now * share / (share - (1 - wanted)))} {kind} examples in place of {now}"
    return f"about {1 / wanted:.1f} times as many examples of every kind"


def _intervention(witness: Intervention, line: ConceptLine, alpha: float) -> Opinion:
    """What the measured change of the same examples says."""
    change, interval = (
        (witness.change_in_sd, witness.interval_in_sd) if line.unit == "sd" else (witness.change, witness.interval)
    )
    measured = f"adding {line.concept} to {witness.pairs} examples changes {line.target} by {_size(change, line)}"
    if witness.p < alpha and abs(change) > line.tolerance:
        rank = f", rank {witness.rank} of {witness.classes} classes" if witness.rank else ""
        return Opinion("influential", f"{measured} (p {witness.p:.2g}{rank})", sign=1 if change > 0 else -1)
    if _inside(interval, line.tolerance):
        return Opinion("not_influential", f"{measured}, within the tolerance ({_range(interval, line)})")
    return Opinion("inconclusive", f"{measured}, which the interval {_range(interval, line)} does not settle")


def _together(association: Opinion, intervention: Opinion, line: ConceptLine) -> Opinion:
    """Both witnesses: agreement stands; disagreement is inconclusive unless the policy trusts the intervention."""
    if association.finding == intervention.finding and association.sign == intervention.sign:
        both = f"{association.because}; {intervention.because}"
        joined = both if association.finding == "inconclusive" else f"both witnesses agree: {both}"
        return Opinion(association.finding, joined, association.sign)
    if line.when_witnesses_disagree == "intervention" and intervention.finding != "inconclusive":
        return Opinion(
            intervention.finding,
            f"the intervention decides: {intervention.because}; association alone: {association.because}",
            intervention.sign,
        )
    unsettled = "inconclusive" in (association.finding, intervention.finding)
    opening = "one witness is not settled" if unsettled else "the witnesses do not agree"
    return Opinion("inconclusive", f"{opening}: {association.because}; {intervention.because}")


def _group_verdict(report: Report, position: int, line: GroupLine) -> LineVerdict:
    metric = line.metric.replace("_", " ")
    bounds = {"at least": line.at_least, "at most": line.at_most}
    wanted = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    group = next((group for group in report.groups if group.name == line.group), None)
    estimate = None if group is None else group.metrics.get(line.metric)
    if group is None or estimate is None:
        outcome: Outcome = "inconclusive"
        reason = f"the report has no {metric} for {line.group}; rates by outcome need 'label' in the group"
    else:
        low = line.at_least is not None and estimate.value < line.at_least
        high = line.at_most is not None and estimate.value > line.at_most
        outcome = "fail" if low or high else "pass"
        reason = (
            f"{metric} by {' and '.join(group.sensitive)} is {estimate.value:.3f} in {group.decisions} "
            f"(interval {estimate.interval[0]:.3f} to {estimate.interval[1]:.3f}), asked for {wanted}"
        )
    return LineVerdict(
        line=position,
        subject=f"{metric} of {line.group} {wanted}",
        finding=None,
        outcome=outcome,
        reason=_sentence(reason),
    )


def _effect(row: Row, line: ConceptLine) -> float:
    return row.effect.in_sd if line.unit == "sd" else row.effect.value


def _interval(row: Row, line: ConceptLine) -> Interval:
    return row.effect.interval_in_sd if line.unit == "sd" else row.effect.interval


def _other_effect(row: Row, line: ConceptLine) -> float:
    """The effect by the cross-check estimator."""
    assert row.cross_check is not None
    return row.cross_check.effect_in_sd if line.unit == "sd" else row.cross_check.effect


def _inside(interval: Interval, tolerance: float) -> bool:
    return -tolerance <= interval[0] and interval[1] <= tolerance


def _size(value: float, line: ConceptLine, *, signed: bool = True) -> str:
    return f"{value:{'+' if signed else ''}.3g} {line.unit}"


def _range(interval: Interval, line: ConceptLine) -> str:
    return f"{interval[0]:+.3g} to {interval[1]:+.3g} {line.unit}"


def _flags(rows: list[Row]) -> list[str]:
    """Each withholding flag's sentence once, in order."""
    return list(dict.fromkeys(flag.sentence.rstrip(".") for row in rows for flag in row.flags if flag.withholds))


def _sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:].rstrip(".") + "."
