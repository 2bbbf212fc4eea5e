"""Association: what the tests of a concept's direction say about a line, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from caveat_spec.audit import SHARES, ConceptLine
from caveat_spec.base import Interval
from caveat_spec.results import Accuracy, Change, ConceptTest, Effect, Estimate, OutputGap
from caveat_spec.verdict.more_examples import advice, times_to_settle
from caveat_spec.verdict.rules import Rule, always, exceeds, in_unit, inside, size, span, unmeasured

MAY_CLEAR = ("weak_cav", "unstable_estimators")
"""Blocking flags that block *influential* but allow *not influential*."""


@dataclass(frozen=True)
class Association:
    """What the tests by association say about a line, layer by layer.

    An effect is a slope. Where nothing was measured beside it (`alone`), a finite step has to say the same, and layers
    must not contradict each other.
    """

    tests: list[ConceptTest]
    line: ConceptLine
    alpha: float
    alone: bool

    @classmethod
    def of(cls, tests: Sequence[ConceptTest], line: ConceptLine, alpha: float, *, alone: bool) -> Association:
        """The tests as the line asks about them: a slope is no probability and flips nothing, so that there the finite
        step is what decides."""
        return cls(
            [_by_finite_step(test) for test in tests] if line.unit in SHARES else list(tests), line, alpha, alone
        )

    @property
    def unmeasured(self) -> bool:
        """Whether a test has no figure in the line's unit."""
        return any(in_unit(test.effect, self.line) is None for test in self.tests)

    @cached_property
    def sound(self) -> list[ConceptTest]:
        """Tests that may decide something."""
        return [
            test for test in self.tests if not any(flag.blocking and flag.code not in MAY_CLEAR for flag in test.flags)
        ]

    @cached_property
    def significant(self) -> list[ConceptTest]:
        """Sound tests whose effect is significant, with no blocking flag at all."""
        return [test for test in self.sound if test.effect.deciding_p < self.alpha and not test.blocked]

    @cached_property
    def moved(self) -> list[ConceptTest]:
        """Significant tests whose whole interval lies beyond the tolerance."""
        return [test for test in self.significant if exceeds(self.interval(test.effect), self.line)]

    @cached_property
    def opposed(self) -> list[ConceptTest]:
        """Where a layer moves the target, the significant tests of the other sign that are beyond the tolerance too."""
        signs = {test.effect.value > 0 for test in self.moved} if self.alone else set()
        return [
            test
            for test in self.significant
            if signs - {test.effect.value > 0} and abs(self.size(test.effect)) > self.line.tolerance
        ]

    @cached_property
    def stepped(self) -> list[ConceptTest]:
        """Sound tests that a finite step has to confirm."""
        return [test for test in self.sound if self.alone and test.finite_step is not None]

    @cached_property
    def upheld(self) -> list[ConceptTest]:
        """Moved tests that their finite step confirms, where one has to."""
        return [test for test in self.moved if test not in self.stepped or self._confirms(test)]

    @cached_property
    def wide(self) -> list[ConceptTest]:
        """Sound tests whose interval is not inside the tolerance."""
        return [test for test in self.sound if not inside(self.interval(test.effect), self.line)]

    @cached_property
    def withheld(self) -> list[ConceptTest]:
        """Tests that may decide nothing, and that show more than the tolerance allows."""
        return [
            test
            for test in self.tests
            if test not in self.sound
            and not all(
                inside(self.interval(figure), self.line)
                for figure in (test.effect, test.finite_step)
                if figure is not None
            )
        ]

    @cached_property
    def disputed(self) -> list[ConceptTest]:
        """Sound tests whose second estimator gives an effect beyond the tolerance."""
        return [
            test
            for test in self.sound
            if self.line.unit not in SHARES
            and test.cross_check is not None
            and abs(self.other_effect(test)) > self.line.tolerance
        ]

    @cached_property
    def bent(self) -> list[ConceptTest]:
        """Tests whose finite step is not inside the tolerance."""
        return [
            test for test in self.stepped if test.finite_step and not inside(self.interval(test.finite_step), self.line)
        ]

    @cached_property
    def encoded(self) -> bool:
        """Whether any audited layer encodes the concept, as far as the tests looked at that."""
        return any(test.accuracy is None or test.accuracy.encoded for test in self.tests)

    @cached_property
    def clearly_encoded(self) -> bool:
        """Whether a layer encodes the concept so well that it is hardly chance, as far as the tests looked at that.

        At an alpha of 0.05 one of 20 layers that do not encode a concept seems to. Its direction is noise, which has no
        effect.
        """
        return any(test.accuracy is None or _clear(test.accuracy) for test in self.tests)

    @cached_property
    def gap(self) -> OutputGap | None:
        """How the model's own numbers for concept and reference differ, where they were compared."""
        gaps = [test.output_gap for test in self.tests if test.output_gap is not None]
        return next((gap for gap in gaps if in_unit(gap, self.line) is not None), None)

    @property
    def gap_inside(self) -> bool:
        """Whether they differ by less than the tolerance."""
        return self.gap is not None and inside(self.interval(self.gap), self.line)

    @cached_property
    def sign(self) -> int:
        """The direction in which the strongest upheld test moves the target; 0 where nothing says."""
        if self.unmeasured or not self.upheld:
            return 0
        return 1 if self.strongest(self.upheld).effect.value > 0 else -1

    def size(self, figure: Effect | Change) -> float:
        """A figure in the line's unit."""
        return self.measured(figure).value

    def interval(self, figure: Effect | Change) -> Interval:
        """Its interval in the line's unit."""
        return self.measured(figure).interval

    def measured(self, figure: Effect | Change) -> Estimate:
        """A figure and its interval in the line's unit."""
        found = in_unit(figure, self.line)
        assert found is not None
        return found

    def other_effect(self, test: ConceptTest) -> float:
        """The effect by the second estimator, in the line's unit."""
        assert test.cross_check is not None
        return test.cross_check.effect_in_sd if self.line.unit == "sd" else test.cross_check.effect

    def strongest(self, tests: Sequence[ConceptTest]) -> ConceptTest:
        """The test with the largest effect."""
        return max(tests, key=lambda test: abs(self.size(test.effect)))

    def widest(self, tests: Sequence[ConceptTest]) -> ConceptTest:
        """The test whose interval reaches farthest from zero."""
        return max(tests, key=lambda test: max(map(abs, self.interval(test.effect))))

    def _confirms(self, test: ConceptTest) -> bool:
        assert test.finite_step is not None
        same_sign = (test.finite_step.value > 0) == (test.effect.value > 0)
        return same_sign and exceeds(self.interval(test.finite_step), self.line)


def _clear(accuracy: Accuracy) -> bool:
    """Whether the accuracy is one that would be found in 95 of 100 cases; chance reaches it in about 1 of 2,000."""
    return accuracy.encoded and accuracy.detectable is not None and accuracy.held_out >= accuracy.detectable


def _by_finite_step(test: ConceptTest) -> ConceptTest:
    """The test with the probabilities and decisions of its finite step."""
    step = test.finite_step
    if step is None:
        return test
    shares = {"in_probability": step.in_probability, "in_decisions": step.in_decisions}
    return test.model_copy(update={"effect": test.effect.model_copy(update=shares)})


def _bend(facts: Association, test: ConceptTest) -> str:
    assert test.finite_step is not None
    line = facts.line
    return (
        f"the full step towards {line.concept} moves {line.target} by {size(facts.size(test.finite_step), line)} "
        f"({span(facts.interval(test.finite_step), line)}): the model bends in between, and matched pairs would "
        "have to tell"
    )


def _slope_not_confirmed(facts: Association) -> str:
    test = facts.strongest(facts.moved)
    effect = size(facts.size(test.effect), facts.line)
    return f"the slope at {test.place} promises {effect}, but {_bend(facts, test)}"


def _layers_oppose(facts: Association) -> str:
    test, other = facts.strongest(facts.moved), facts.opposed[0]
    return (
        f"by association, layers contradict each other: a step towards {facts.line.concept} moves {facts.line.target} "
        f"by {size(facts.size(test.effect), facts.line)} at {test.place} and by "
        f"{size(facts.size(other.effect), facts.line)} at {other.place}; matched pairs would have to tell"
    )


def _moves(facts: Association) -> str:
    test, line = facts.strongest(facts.upheld), facts.line
    return (
        f"by association, at {test.place} a step towards {line.concept} moves {line.target} by "
        f"{size(facts.size(test.effect), line)} (corrected p {test.effect.deciding_p:.2g})"
    )


def _too_wide(facts: Association) -> str:
    """Why a test that is neither beyond nor inside the tolerance settles nothing, and what would settle it."""
    test, line = facts.widest(facts.wide), facts.line
    effect, interval = facts.size(test.effect), facts.interval(test.effect)
    sentence = f"at {test.place} the effect {size(effect, line)} has the interval {span(interval, line)}"
    weak = [flag.sentence for flag in test.flags if flag.code == "weak_cav"]
    if weak:
        return f"{sentence}, and the concept activation vector is weak: {weak[0]}"
    if abs(effect) < line.tolerance:
        return f"{sentence}, too wide for the tolerance {size(line.tolerance, line, signed=False)}; {_advice(facts)}"
    if test.blocked and exceeds(interval, line):
        return (
            f"{sentence}, beyond the tolerance, which does not count against the model while this test is in doubt: "
            f"{'; '.join(_blocking_sentences([test]))}"
        )
    if test.effect.deciding_p >= facts.alpha:
        return f"{sentence}, beyond the tolerance but not beyond chance (corrected p {test.effect.deciding_p:.2g})"
    return f"{sentence}, which reaches into the tolerance {size(line.tolerance, line, signed=False)}"


def _withheld(facts: Association) -> str:
    test = facts.withheld[0]
    return (
        f"{test.place} may not decide, and a layer that is left out must not clear a line: its effect "
        f"{size(facts.size(test.effect), facts.line)} ({span(facts.interval(test.effect), facts.line)}) or its finite "
        f"step is not within the tolerance. {'; '.join(_blocking_sentences([test]))}"
    )


def _not_encoded(facts: Association) -> str:
    line, layers = facts.line, [test.place for test in facts.tests]
    power = [test.accuracy.detectable for test in facts.tests if test.accuracy is not None]
    found = [one for one in power if one is not None]
    missed = (
        f"an accuracy of {max(found):.2f} would have been found in 95 of 100 cases"
        if found and len(found) == len(power)
        else "these examples are too few to find even a perfect encoding in 95 of 100 cases"
    )
    return (
        f"no audited layer encodes {line.concept} linearly ({', '.join(layers)}; {missed}), {_in_another_form(facts)}"
    )


def _in_another_form(facts: Association) -> str:
    """What the output gap says about an influence that no direction shows."""
    line, gap = facts.line, facts.gap
    if gap is None:
        return "and its influence in another form was not looked at"
    differ = (
        f"and between its examples and the reference set {line.target} differs by {size(facts.size(gap), line)} "
        f"({span(facts.interval(gap), line)})"
    )
    if facts.gap_inside:
        return f"{differ}, within the tolerance"
    return f"{differ}: an influence that is encoded in another form is not ruled out"


def _advice(facts: Association) -> str:
    """How many examples would bring every interval inside the tolerance."""
    found: list[Effect | Change] = [test.effect for test in facts.wide]
    found += [test.finite_step for test in facts.stepped if test.finite_step is not None]
    if any(abs(facts.size(figure)) >= facts.line.tolerance for figure in found):
        return "no feasible number of examples would settle it, unless the effect is smaller than it seems"
    times = [times_to_settle(facts.measured(figure), facts.line, facts.alpha, inside_only=True) for figure in found]
    return advice(max(times), "examples of every kind")


def _estimators_disagree(facts: Association) -> str:
    test = facts.disputed[0]
    assert test.cross_check is not None
    return (
        f"at {test.place} the estimators disagree: {test.estimator} gives the effect "
        f"{size(facts.size(test.effect), facts.line)} and {test.cross_check.estimator} "
        f"{size(facts.other_effect(test), facts.line)}"
    )


def _hardly_encoded(facts: Association) -> str:
    """Why effects inside the tolerance clear no line where chance alone may have made the directions."""
    line = facts.line
    accuracy, place = max(
        ((test.accuracy, test.place) for test in facts.tests if test.accuracy is not None and test.accuracy.encoded),
        key=lambda each: each[0].held_out,
    )
    enough = accuracy.detectable
    needed = "these examples are too few to tell" if enough is None else f"{enough:.3f} would not be"
    return (
        f"at every audited layer the effect of {line.concept} on {line.target} lies within "
        f"{size(line.tolerance, line, signed=False)}, but no layer encodes {line.concept} clearly: the best held-out "
        f"accuracy, {accuracy.held_out:.3f} at {place}, may be chance ({needed}), {_in_another_form(facts)}"
    )


def _inside_everywhere(facts: Association) -> str:
    test, line = facts.widest(facts.sound), facts.line
    return (
        f"by association, at every audited layer the effect of {line.concept} on {line.target} lies within "
        f"{size(line.tolerance, line, signed=False)} "
        f"(widest interval {span(facts.interval(test.effect), line)} at {test.place})"
    )


ASSOCIATION: tuple[Rule[Association], ...] = (
    Rule(
        "nothing was tested",
        lambda facts: not facts.tests,
        "inconclusive",
        lambda facts: f"the report has no test of {facts.line.concept} for {facts.line.target}",
    ),
    Rule(
        "no figure in the line's unit",
        lambda facts: facts.unmeasured,
        "inconclusive",
        lambda facts: (
            f"{unmeasured(facts.line)}; measure it on matched pairs (`pairs_with`), or give the tolerance in `sd`"
        ),
    ),
    Rule(
        "every layer is flagged",
        lambda facts: not facts.sound,
        "inconclusive",
        lambda facts: "every layer is flagged: " + "; ".join(_blocking_sentences(facts.tests)),
    ),
    Rule("no layer encodes the concept", lambda facts: not facts.encoded, "not_encoded", _not_encoded),
    Rule("layers of opposite sign", lambda facts: facts.opposed, "inconclusive", _layers_oppose),
    Rule(
        "a slope that no finite step confirms",
        lambda facts: facts.moved and not facts.upheld,
        "inconclusive",
        _slope_not_confirmed,
    ),
    Rule("a layer moves the target", lambda facts: facts.upheld, "influential", _moves),
    Rule("an interval is too wide", lambda facts: facts.wide, "inconclusive", _too_wide),
    Rule("a layer that may not decide shows more", lambda facts: facts.withheld, "inconclusive", _withheld),
    Rule("the estimators disagree", lambda facts: facts.disputed, "inconclusive", _estimators_disagree),
    Rule(
        "a finite step leaves the tolerance",
        lambda facts: facts.bent,
        "inconclusive",
        lambda facts: f"the slope at {facts.bent[0].place} is within the tolerance, but {_bend(facts, facts.bent[0])}",
    ),
    Rule(
        "no layer encodes the concept clearly",
        lambda facts: facts.alone and not facts.clearly_encoded and not facts.gap_inside,
        "inconclusive",
        _hardly_encoded,
    ),
    Rule("every interval is inside the tolerance", always, "not_influential", _inside_everywhere),
)


def _blocking_sentences(tests: Sequence[ConceptTest]) -> list[str]:
    """One sentence for each kind of blocking flag; where its numbers differ between layers, the first layer's."""
    raised: dict[str, dict[str, list[str]]] = {}  # code → sentence → layers
    for test in tests:
        for flag in test.flags:
            if flag.blocking:
                sentences = raised.setdefault(flag.code, {})
                sentences.setdefault(flag.sentence.rstrip("."), []).append(test.place)
    said = []
    for (sentence, _), *others in (list(sentences.items()) for sentences in raised.values()):
        alike = ", ".join(place for _, places in others for place in places)
        said.append(f"{sentence}. Much the same holds at {alike}" if alike else sentence)
    return said
