"""The page's part about ground truths."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from bench.validation.captions import caption_section, experiment, orders
from bench.validation.planted import CASES
from bench.validation.truths import Answers, answers, bends, section, summary
from examples.captions.build import WRONG_CAPTIONS

QUICK = ("loans", "weightless")
FEWEST_CORRELATION = 0.5
"""The mean rank correlation, over seeds, between captions' truth and what audits say of them."""


def truths(quick: bool, folder: Path) -> tuple[str, bool]:
    """Every audit beside its truth; holds where no verdict is wrong and the captions' order is the truth's."""
    found = [
        answers(asked) for name, build in CASES.items() if not quick or name in QUICK for asked in build(folder / name)
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


def _t_test(every: list[Answers]) -> str:
    """What the published test makes of the concepts that are known not to matter."""
    rows = [row for one in every for of in one.facts if of.fact.finding == "not_influential" for row in of.rows]
    significant = sum(row.legacy_t_test.p <= 0.05 for row in rows)
    return (
        f"The published t-test (*legacy*) calls {significant} of the {len(rows)} rows significant that are about "
        "concepts without influence.\n"
    )


def _doubts(every: list[Answers]) -> list[str]:
    """Verdicts about captions: those that miss an influence with their reasons, the others counted."""
    missed = [
        f"- seed {number // len(WRONG_CAPTIONS)}, {one.asked.title.split('*')[1]}, {of.fact.concept} → "
        f"{of.fact.target}, {of.agreement} where the truth is *influential* ({of.fact.known}): {of.reason}"
        for number, one in enumerate(every)
        for of in one.facts
        if of.fact.finding == "influential" and of.agreement != "right"
    ]
    others = [of for one in every for of in one.facts if of.fact.finding != "influential" and of.fact.concept != "null"]
    weak = sum("CAV is weak" in of.reason or "encodes" in of.reason for of in others if of.finding == "inconclusive")
    found = Counter(of.finding.replace("_", " ") for of in others)
    return [
        *missed,
        f"\nOf {len(others)} lines about captions that do not move the class beyond the tolerance, or lie at it, "
        f"{found['influential']} are influential, {found['not influential']} not influential, {found['inconclusive']} "
        f"inconclusive ({weak} because the layer does not encode the caption).",
        _null_sentence(every),
    ]


def _null_sentence(every: list[Answers]) -> str:
    nulls = [of for one in every for of in one.facts if of.fact.concept == "null"]
    found = Counter(of.finding.replace("_", " ") for of in nulls)
    said = ", ".join(f"{found[kind]} {kind}" for kind in ("influential", "not influential", "inconclusive"))
    return f"\nThe concept that is none (pictures drawn like those of its pool), {len(nulls)} lines: {said}."


HEAD = """## Ground truths

Made by `python -m bench.validation truths`. Ordinary audits, through the same pipeline as any other, of models about
which the right answer is known: because something was planted, because nothing can be there, or because the change was
measured by running the model in ONNX Runtime alone. A truth is *influential* where the measured change is beyond the
line's tolerance by two standard errors, *not influential* where it is inside it by two, and else *at the tolerance*.

A verdict is *right*, or *open* (inconclusive; the reason stands under the table), or of the *other sign*, or *wrong*:
an influence called not influential, or none called influential. Where an audit has no pairs, *influential* means
association, and the truth is still what the measured change is. Effects are in standard deviations of the target.
"""
