"""The page's part about ground truths."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from bench.validation.captions import caption_section, experiment, orders
from bench.validation.ground_truth import Agreement, Answers, answers, bends, section, summary
from bench.validation.scenarios import CASES
from bench.validation.tables import tables
from examples.captions.build import WRONG_CAPTIONS

QUICK = ("loans", "weightless")
FEWEST_CORRELATION = 0.5
"""The least mean rank correlation, over seeds, between the captions' truth and the audits' figures."""


def ground_truths(quick: bool, folder: Path) -> tuple[str, bool]:
    """Every audit beside its truth; holds where no verdict is wrong and audits order the captions as the truth does."""
    found = [
        answers(asked)
        for name, build in CASES.items()
        if name != "tables" and (not quick or name in QUICK)
        for asked in build(folder / name)
    ]
    captions = [] if quick else experiment(folder / "captions")
    by_caption = [one.answers for one in captions]
    every = [*found, *by_caption]
    holds = not any(one.tally["wrong"] for one in every) and all(
        abs(value - count.value) < 1e-5 and outcome == count.outcome
        for one in every
        for count, value, outcome in one.counts
    )
    parts = [HEAD, summary(every), _t_test(every), bends(every), *map(section, found)]
    if captions:
        agree = [float(np.nanmean(orders(captions)[figure])) for figure in ("lead", "caption")]
        holds &= min(agree) >= FEWEST_CORRELATION
        parts += [caption_section(captions), "\n".join(_doubts(by_caption)), ""]
    return "\n".join(parts), holds


def chosen_beforehand(quick: bool, folder: Path) -> tuple[str, bool]:
    """The tables that were chosen before any of their audits had run; holds where no verdict is wrong."""
    found = [answers(asked) for asked in tables(folder)[: 2 if quick else None]]
    total = sum((one.tally for one in found), Counter[Agreement]())
    counted = ", ".join(f"{number} {kind}" for kind, number in total.most_common())
    text = "\n".join([TABLES_HEAD.format(count=len(found), lines=total.total(), counted=counted), summary(found)])
    return "\n".join([text, *map(section, found)]), not total["wrong"] + total["other sign"]


def _t_test(every: list[Answers]) -> str:
    """How often the published test calls a concept significant that is known not to matter."""
    tests = [test for one in every for of in one.facts if of.fact.finding == "not_influential" for test in of.tests]
    significant = sum(test.legacy_t_test is not None and test.legacy_t_test.p <= 0.05 for test in tests)
    return (
        f"The published t-test (*legacy*) calls {significant} of {len(tests)} tests of concepts without influence "
        "significant.\n"
    )


def _doubts(every: list[Answers]) -> list[str]:
    """Verdicts about captions: missed influences with their reasons, and counts of the others."""
    missed = [
        f"- seed {number // len(WRONG_CAPTIONS)}, {one.asked.title.split('*')[1]}, {of.fact.concept} → "
        f"{of.fact.target}, {of.agreement} where the truth is *influential* ({of.fact.known}): {of.reason}"
        for number, one in enumerate(every)
        for of in one.facts
        if of.fact.finding == "influential" and of.agreement != "right"
    ]
    others = [of for one in every for of in one.facts if of.fact.finding != "influential" and of.fact.concept != "null"]
    found = Counter(of.finding.replace("_", " ") for of in others)
    return [
        *missed,
        f"\nOf {len(others)} lines about captions whose measured change is within the tolerance, or at it, "
        f"{found['influential']} are influential, {found['not influential']} not influential, "
        f"{found['not encoded']} not encoded, {found['inconclusive']} inconclusive.",
        _null_sentence(every),
    ]


def _null_sentence(every: list[Answers]) -> str:
    nulls = [of for one in every for of in one.facts if of.fact.concept == "null"]
    found = Counter(of.finding.replace("_", " ") for of in nulls)
    counted = ", ".join(
        f"{found[kind]} {kind}" for kind in ("influential", "not influential", "not encoded", "inconclusive")
    )
    return f"\nThe random concept (pictures drawn like those of its reference set), {len(nulls)} lines: {counted}."


TABLES_HEAD = """## Ground truths chosen beforehand

Made by `python -m bench.validation tables`. {count} tables that nothing here had used: their columns, concepts and
tolerance (0.25 sd) were committed before any of these audits had run. Of {lines} lines, {counted}.
"""

HEAD = """## Ground truths

Made by `python -m bench.validation truths`. These are ordinary audits, run through the same pipeline as any other, of
models whose right answer is known: the training data contained a known shortcut, or an influence is impossible by
construction, or the change was measured by running the model in ONNX Runtime alone. A truth is *influential* where the
measured change is beyond the line's tolerance by two standard errors, *not influential* where it is inside the
tolerance by two, and otherwise *at the tolerance*.

A verdict is *right*, *not encoded* (and neither passes nor fails for it), *open* (inconclusive; the reason is under the
table), of the *other sign*, or *wrong*: an influence called not influential, or no influence called influential.
*Not encoded* is right where the gate passes the line for it and the truth is *not influential*. Where an audit has no
matched pairs, *influential* means association, and the truth is still the measured change. Effects are in standard
deviations of the target, by its middle 70 %.
"""
