from __future__ import annotations

from collections.abc import Callable

import pytest

from caveat_reports import summary
from caveat_spec.report import LineVerdict, Outcome, Report, Verdict


def with_outcomes(report: Report, *outcomes: Outcome) -> Report:
    lines = [
        LineVerdict(line=i, subject=f"line {i}", finding=None, outcome=outcome, reason="So.")
        for i, outcome in enumerate(outcomes)
    ]
    worst = next((one for one in summary.WORST_FIRST if one in outcomes), None)
    return report.model_copy(update={"verdict": Verdict(outcome=worst, lines=lines)})


@pytest.mark.parametrize(
    ("outcomes", "headline", "explanation"),
    [
        ((), "No verdict", "No gate was set, so the figures below stand without a verdict."),
        (("pass",), "Passes", "The one line of the gate holds."),
        (("pass", "pass"), "Passes", "All 2 lines of the gate hold."),
        (("fail", "pass"), "Fails", "1 of 2 lines of the gate does not hold."),
        (
            ("fail", "inconclusive", "fail"),
            "Fails",
            "2 of 3 lines of the gate do not hold, and 1 could not be settled.",
        ),
        (("inconclusive",), "Inconclusive", "The one line of the gate could not be settled; none failed."),
    ],
)
def test_the_verdict_in_words(
    watermark: Report, outcomes: tuple[Outcome, ...], headline: str, explanation: str
) -> None:
    report = with_outcomes(watermark, *outcomes)
    assert summary.headline(report) == headline
    assert summary.explanation(report) == explanation


def test_failures_come_first(watermark: Report) -> None:
    report = with_outcomes(watermark, "pass", "inconclusive", "fail", "fail")
    assert [line.number for line in summary.worst_first(report)] == [3, 4, 2, 1]
    assert [line.number for line in summary.lines(report)] == [1, 2, 3, 4]


def test_lines_that_ask_the_same_are_one_question(watermark: Report) -> None:
    assert summary.questions(watermark) == [
        "Does carton depend on watermark, latin-text or stripes? It must not.",
        "Is the selection rate ratio at least 0.8 in loans or loans-by-sex?",
    ]


def test_a_pair_knows_its_tests_its_intervention_and_its_lines(watermark: Report) -> None:
    first, *_, last = summary.pairs(watermark)
    assert (first.concept, first.target, len(first.tests)) == ("watermark", "carton", 3)
    assert first.intervention is not None
    assert [line.outcome for line in first.lines] == ["fail"]
    assert (last.concept, last.target, last.intervention, last.lines) == ("stripes", "zebra", None, [])


def test_an_intervention_in_words(watermark: Report) -> None:
    assert summary.intervention_sentences(watermark.interventions[0], "logit") == [
        "Adding watermark to 60 examples changed carton by +2.91 logit (+2.61 to +3.19), p 0.002.",
        "Its mean probability went from 0.000312 to 0.0103.",
        "4 of 60 decisions flipped to carton, 0 away from it.",
        "No other of 1,000 classes rose as much.",
    ]


def test_an_intervention_on_a_single_output_speaks_of_decisions(watermark: Report) -> None:
    single = watermark.interventions[0].model_copy(
        update={
            "decisions": watermark.interventions[0].decisions.model_copy(
                update={"probability_without": None, "rank": None, "classes": None, "flips_from": 2}
            )
        }
    )
    assert summary.intervention_sentences(single, "logit")[1:] == [
        "4 of 60 decisions became favourable, 2 unfavourable."
    ]


def test_each_flag_is_told_once_with_its_places(watermark: Report) -> None:
    (degenerate, places), (weak, _) = sorted(summary.flags(watermark.associations), key=lambda found: found[0].code)
    assert (degenerate.code, weak.code) == ("degenerate", "weak_cav")
    assert len(places) == 4
    assert places[0] == "watermark → carton at block15"


def test_a_missing_estimate_is_a_dash(watermark: Report) -> None:
    assert summary.estimate_words(None) == "–"


def test_every_format_says_the_same(watermark: Report, golden: Callable[[str, str], None]) -> None:
    from caveat_reports import gitlab, html, junit, markdown, sarif

    subject = "watermark must not matter to carton"
    for render in (html.render, junit.render, markdown.render, sarif.render, gitlab.render):
        text = render(watermark)
        assert subject in text
        assert "Both lines of evidence agree: at block15 a step towards watermark moves carton by" in text
        assert text == render(watermark)


def test_chance_is_named_for_what_it_was(watermark: Report) -> None:
    null = watermark.associations[0].effect.null
    assert summary.null_words(null) == "499 random sets in place of the concept"
    swapped = null.model_copy(update={"kind": "swapped_pairs"})
    assert summary.null_words(swapped) == "499 random swaps within pairs"
