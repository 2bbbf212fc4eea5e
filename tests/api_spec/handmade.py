"""Reports made by hand, with only the figures that a verdict looks at left free."""

from __future__ import annotations

from typing import Any

from caveat_spec.audit import Audit
from caveat_spec.report import Engine, PlanSummary, Report, Verdict
from caveat_spec.results import Comparison, ConceptTest, DecisionChange, Effect, Flag

AUDIT = {
    "model": "sha256:" + "0" * 64,
    "examples": {
        "photos": {"images": "sha256:" + "1" * 64, "preprocess": {"size": 8}},
        "marked": {"images": "sha256:" + "2" * 64, "preprocess": {"size": 8}, "pairs_with": "photos"},
    },
    "concepts": {"mark": {"examples": "marked", "against": "photos"}},
    "targets": {"carton": {"index": 1, "examples": "photos"}},
}
NULL = {"kind": "random_sets", "sets": 99, "mean": 0.0, "sd": 0.1, "histogram": {"edges": [-1.0, 1.0], "counts": [99]}}


def row(
    *,
    in_sd: float = 0.0,
    interval: tuple[float, float] = (-0.05, 0.05),
    p: float = 0.5,
    encoded: bool = True,
    held_out: float = 0.9,
    flags: tuple[Flag, ...] = (),
    layer: str = "block",
    other: float | None = None,
    whole: tuple[float, float, float] | None = None,
    gap: tuple[float, float, float] | None = None,
) -> ConceptTest:
    """A row whose effect is `in_sd`, with twice that in logits.

    `whole` is its finite step and that one's interval, `gap` the output gap and that one's.
    """
    return ConceptTest.model_validate(
        {
            "method": "tcav",
            "evidence": "association",
            "concept": "mark",
            "layer": layer,
            "target": "carton",
            "estimator": "logistic",
            "score": {
                "value": 0.5,
                "interval": (0.4, 0.6),
                "smoothed": 0.5,
                "runs": 10,
                "runs_mean": 0.5,
                "runs_sd": 0.1,
                "null": NULL,
                "p": 0.5,
            },
            "effect": Effect.model_validate(
                {
                    "value": 2 * in_sd,
                    "interval": (2 * interval[0], 2 * interval[1]),
                    "in_sd": in_sd,
                    "interval_in_sd": interval,
                    "per_concept_sd": 0.1,
                    "null": NULL,
                    "p": p,
                    "p_corrected": p,
                }
            ),
            "finite_step": None if whole is None else change(whole),
            "output_gap": None if gap is None else change(gap),
            "accuracy": {
                "held_out": held_out,
                "shuffled_mean": 0.5,
                "shuffled_high": 0.6,
                "encoded": encoded,
                "detectable": 0.71,
            },
            "cross_check": None
            if other is None
            else {"estimator": "logistic", "score": 0.5, "effect": 2 * other, "effect_in_sd": other, "cosine": 0.9},
            "legacy_t_test": {"p": 0.01, "caution": "Do not act on it."},
            "flags": flags,
            "changes": [2 * in_sd] * 3,
            "n_concept": 40,
            "n_reference": 160,
            "n_target": 60,
        }
    )


def change(in_sd: tuple[float, float, float]) -> dict[str, Any]:
    """A change and its interval, given in sd, with twice that in logits."""
    value, low, high = in_sd
    return {"value": 2 * value, "interval": (2 * low, 2 * high), "in_sd": value, "interval_in_sd": (low, high)}


def flag(code: str, *, blocking: bool = True) -> Flag:
    return Flag.model_validate({"code": code, "sentence": f"The row is {code}.", "blocking": blocking})


def intervention(*, in_sd: float = 0.0, interval: tuple[float, float] = (-0.05, 0.05), p: float = 0.5) -> ConceptTest:
    """A measured change of `in_sd`, with twice that in logits."""
    return ConceptTest(
        method="intervention",
        evidence="intervention",
        concept="mark",
        target="carton",
        effect=Effect(
            value=2 * in_sd,
            interval=(2 * interval[0], 2 * interval[1]),
            in_sd=in_sd,
            interval_in_sd=interval,
            p=p,
        ),
        n_concept=40,
        n_reference=40,
        n_target=40,
        decisions=DecisionChange(
            probability_without=0.1, probability_with=0.2, flips_to=1, flips_from=0, rank=3, classes=10
        ),
    )


def report(
    *rows: ConceptTest, interventions: tuple[ConceptTest, ...] = (), groups: tuple[Comparison, ...] = ()
) -> Report:
    return Report(
        engine=Engine(caveat="0", versions={}, provider="cpu"),
        audit=Audit.model_validate(AUDIT),
        plan=PlanSummary(layers=[], targets=[], examples=[], gradient_checks=[]),
        tests=[*rows, *interventions],
        comparisons=list(groups),
        matrices=[],
        rankings=[],
        warnings=[],
        verdict=Verdict(outcome=None, lines=[]),
    )


def group(**metrics: float) -> Comparison:
    estimates: dict[str, Any] = {
        name: {"value": value, "interval": (value - 0.1, value + 0.1)} for name, value in metrics.items()
    }
    return Comparison(
        method="group_comparison",
        name="race",
        decisions="the recorded decisions",
        sensitive=["race"],
        rows=[],
        metrics=estimates,
    )
