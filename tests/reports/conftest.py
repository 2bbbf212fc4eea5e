"""Reports made up by code: the figures are plausible, synthetic, and nobody's."""

from __future__ import annotations

import base64
import os
import struct
import zlib
from collections.abc import Callable
from itertools import pairwise
from math import erf, exp, sqrt
from pathlib import Path
from typing import Any

import pytest
from xmlschema import XMLSchema

from caveat_reports.summary import WORST_FIRST
from caveat_spec.audit import Audit
from caveat_spec.explain import Atoms, Element, Presentation
from caveat_spec.explained import Atom, Check, Explained, Figure, Focus, Grid, Link, Panel, Rest
from caveat_spec.report import (
    Engine,
    ExampleSetSummary,
    Finding,
    GradientCheck,
    LayerSummary,
    LineVerdict,
    Outcome,
    PlanSummary,
    Report,
    TargetSummary,
    Verdict,
)
from caveat_spec.results import (
    Accuracy,
    Comparison,
    ConceptTest,
    ConditionalDifference,
    CrossCheck,
    DecisionChange,
    Effect,
    Estimate,
    Flag,
    GroupRow,
    Histogram,
    LegacyTTest,
    Matrix,
    Null,
    RankedExample,
    Ranking,
    Score,
)

HOSTILE = "<script>alert('x')</script>&\"'|`*_[x](http://evil.example/)\x07\u202e"
CAUTION = (
    "The t-test treats runs as independent although they share one concept set; at a nominal 5 % it calls "
    "63 % of random concepts significant. Do not act on it."
)


def digest(word: str) -> str:
    return "sha256:" + (word.encode().hex() + "0123456789abcdef" * 4)[:64]


def thumbnail(shade: int, stripe: int, size: int = 24) -> str:
    """A PNG with a gradient and a bar, stored without compression so that its bytes never change."""
    rows = b"".join(
        b"\0"
        + b"".join(
            bytes([stripe, 240 - 4 * y, 250])
            if abs(x - y) < 3
            else bytes([(shade + 5 * x) % 256, (90 + shade // 2 + 3 * y) % 256, (160 + 2 * x) % 256])
            for x in range(size)
        )
        for y in range(size)
    )

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


def null(mean: float, sd: float, sets: int = 499, bins: int = 24, low: float = -9e9, high: float = 9e9) -> Null:
    """A bell of `sets` values, cut off at `low` and `high`."""
    low, high = max(low, mean - 3 * sd), min(high, mean + 3 * sd)
    edges = [low + (high - low) * i / bins for i in range(bins + 1)]
    cumulated = [0.5 * (1 + erf((edge - mean) / (sd * sqrt(2)))) for edge in edges]
    marks = [round(sets * (c - cumulated[0]) / (cumulated[-1] - cumulated[0])) for c in cumulated]
    counts = [after - before for before, after in pairwise(marks)]
    return Null(kind="random_sets", sets=sets, mean=mean, sd=sd, histogram=Histogram(edges=edges, counts=counts))


def row(
    concept: str,
    layer: str,
    target: str,
    *,
    effect: float,
    half: float,
    null_sd: float,
    score: float,
    null_score_sd: float,
    p: float,
    p_corrected: float,
    target_sd: float = 1.6,
    accuracy: float = 0.94,
    flags: tuple[Flag, ...] = (),
) -> ConceptTest:
    return ConceptTest(
        method="tcav",
        evidence="association",
        concept=concept,
        layer=layer,
        target=target,
        estimator="logistic",
        score=Score(
            value=score,
            interval=(max(0, score - 0.11), min(1, score + 0.07)),
            smoothed=0.5 + 0.9 * (score - 0.5),
            runs=500,
            runs_mean=min(1, max(0, score - 0.02)),
            runs_sd=0.03,
            null=null(0.51, null_score_sd, low=0, high=1),
            p=min(1.0, 2 * p + 0.03),
        ),
        effect=Effect(
            value=effect,
            interval=(effect - half, effect + half),
            in_sd=effect / target_sd,
            interval_in_sd=((effect - half) / target_sd, (effect + half) / target_sd),
            per_concept_sd=effect * 0.41,
            null=null(0.004, null_sd),
            p=p,
            p_corrected=p_corrected,
        ),
        accuracy=Accuracy(held_out=accuracy, shuffled_mean=0.5, shuffled_high=0.62, encoded=accuracy > 0.62),
        cross_check=CrossCheck(
            estimator="mean_difference",
            score=min(1, score + 0.01),
            effect=effect * 1.08,
            effect_in_sd=effect * 1.08 / target_sd,
            cosine=0.71,
        ),
        legacy_t_test=LegacyTTest(p=1e-30 if p < 0.01 else 0.0312, caution=CAUTION),
        flags=list(flags),
        changes=[0.5, -0.25, 1.0],
        n_concept=40,
        n_reference=160,
        n_target=60,
    )


def images(name: str, pairs_with: str | None = None) -> dict[str, object]:
    return {
        "images": digest(name),
        "preprocess": {"size": 224, "mean": 127, "std": 128, "layout": "nchw", "channels": "rgb"},
        "pairs_with": pairs_with,
    }


ENGINE = Engine(
    caveat="0.1.0",
    versions={"numpy": "2.4.6", "onnx": "1.23.2", "onnxruntime": "1.31.1", "scikit-learn": "1.9.1"},
    provider="CPUExecutionProvider",
)
DEGENERATE = Flag(
    code="degenerate",
    sentence="The gradient does not vary over the examples: the score is 0 or 1; the effect keeps its meaning.",
    blocking=False,
)
WEAK = Flag(
    code="weak_cav",
    sentence="Held-out accuracy 0.58 does not beat shuffled labels (0.62): this layer does not encode latin-text.",
    blocking=True,
)


Said = tuple[Outcome, Finding | None, str, str]

WATERMARK: Said = (
    "fail",
    "influential",
    "watermark must not matter to carton",
    "Both lines of evidence agree: at block15 a step towards watermark moves carton by +0.931 sd (corrected p 0.018); "
    "adding "
    "watermark to 60 examples changes carton by +1.82 sd (p 0.002, rank 1 of 1000 classes).",
)
LATIN: Said = (
    "inconclusive",
    "inconclusive",
    "latin-text must not matter to carton",
    "Association and intervention do not agree: at block15 a step towards latin-text moves carton by +0.262 sd "
    "(corrected p 0.036), "
    "but adding latin-text to 60 examples changes carton by +0.0075 sd, within the tolerance (-0.031 to +0.05 sd).",
)
STRIPES: Said = (
    "pass",
    "not_influential",
    "stripes must not matter to carton",
    "At every audited layer the effect of stripes on carton lies within 0.25 sd (widest interval -0.175 to +0.0875 sd "
    "at block15).",
)
RACE: Said = (
    "fail",
    None,
    "selection rate ratio of loans at least 0.8",
    "Selection rate ratio by race is 0.779 in recorded decisions (approve) (interval 0.709 to 0.848), asked for at "
    "least 0.8.",
)
SEX: Said = (
    "pass",
    None,
    "selection rate ratio of loans-by-sex at least 0.8",
    "Selection rate ratio by sex is 0.983 in recorded decisions (approve) (interval 0.940 to 0.999), asked for at "
    "least 0.8.",
)


def judged(report: Report, *said: Said) -> Report:
    """With a verdict as a gate may word it; the wording itself is the gate's, and tested there."""
    lines = [
        LineVerdict(line=position, subject=subject, finding=finding, outcome=outcome, reason=reason)
        for position, (outcome, finding, subject, reason) in enumerate(said)
    ]
    outcomes = {line.outcome for line in lines}
    worst = next((one for one in WORST_FIRST if one in outcomes), None)
    return report.model_copy(update={"verdict": Verdict(outcome=worst, lines=lines)})


GIVEN_CREDIT = ConditionalDifference(
    given=["debt_ratio", "bankruptcy"],
    strata=14,
    people=1871,
    rest=118,
    higher="white",
    lower="black",
    crude=Estimate(value=0.2, interval=(0.136, 0.264)),
    conditional=Estimate(value=0.089, interval=(0.03, 0.148)),
    disagreement=None,
    sentence="Given debt_ratio (in 7 ranges) and bankruptcy, the selection rate of white minus that of black is +8.9 "
    "(+3.0 to +14.8) percentage points; for the same people without regard to that it is +20.0 (+13.6 to +26.4). "
    "Compared are 1,871 people in 14 strata, without 118 whose stratum or group is too small. The difference remains "
    "among people who are alike in that.",
)
CAPTION = "Examples along the concept's direction, in standard deviations from the mean of their set."
COSINES = "Cosines between concept activation vectors."


def cosines(layer: str, names: list[str], values: list[list[float]]) -> Matrix:
    return Matrix(method="tcav", title="Entanglement", caption=COSINES, layer=layer, names=names, values=values)


def measured(
    *,
    concept: str,
    change: float,
    interval: tuple[float, float],
    in_sd: float,
    interval_in_sd: tuple[float, float],
    p: float,
    decisions: DecisionChange,
) -> ConceptTest:
    return ConceptTest(
        method="intervention",
        evidence="intervention",
        concept=concept,
        target="carton",
        effect=Effect(value=change, interval=interval, in_sd=in_sd, interval_in_sd=interval_in_sd, p=p),
        n_concept=60,
        n_reference=60,
        n_target=60,
        decisions=decisions,
    )


def ranking(concept: str, layer: str, examples: str, stripe: int, pictures: bool = True) -> Ranking:
    def ranked(i: int, projection: float) -> RankedExample:
        return RankedExample(
            position=i,
            example=f"crop-{i:04d}.png",
            projection=projection,
            thumbnail=thumbnail(37 * i, stripe) if pictures else None,
        )

    return Ranking(
        method="tcav",
        title=concept,
        caption=CAPTION,
        layer=layer,
        examples=examples,
        most=[ranked(i, 2.71 - 0.21 * i) for i in range(8)],
        least=[ranked(40 + i, -1.13 - 0.14 * i) for i in range(8)],
    )


@pytest.fixture(scope="session")
def junit_schema() -> XMLSchema:
    """The schema that Jenkins' xUnit plugin has."""
    return XMLSchema(str(Path(__file__).parent / "schemas" / "junit-10.xsd"))


@pytest.fixture(scope="session")
def watermark() -> Report:
    """Everything at once: influential by both lines of evidence, inconclusive, not influential, groups that fail."""
    audit = Audit.model_validate(
        {
            "model": digest("efficientnet-lite0"),
            "examples": {
                "photos": images("photos"),
                "watermarked": images("watermarked", "photos"),
                "latin": images("latin", "photos"),
                "striped": images("striped"),
                "loans": {"table": digest("loans"), "features": ["income", "debt"]},
            },
            "concepts": {
                "watermark": {"examples": "watermarked", "against": "photos"},
                "latin-text": {"examples": "latin", "against": "photos"},
                "stripes": {"examples": "striped", "against": "photos"},
            },
            "targets": {
                "carton": {"output": "logits", "index": 478, "examples": "photos"},
                "zebra": {"output": "logits", "index": 340, "examples": "photos"},
            },
            "method": {"estimator": "logistic", "cross_check": "mean_difference", "seed": 20, "permutations": 499},
            "groups": {
                "loans": {
                    "examples": "loans",
                    "sensitive": ["race"],
                    "decision": "approve",
                    "given": ["debt_ratio", "bankruptcy"],
                },
                "loans-by-sex": {"examples": "loans", "sensitive": ["sex"], "decision": "approve"},
            },
            "gate": [
                {"concept": "watermark", "target": "carton", "must": "not_matter", "tolerance": 0.1},
                {"concept": "latin-text", "target": "carton", "must": "not_matter", "tolerance": 0.1},
                {"concept": "stripes", "target": "carton", "must": "not_matter", "tolerance": 0.25},
                {"group": "loans", "metric": "selection_rate_ratio", "at_least": 0.8},
                {"group": "loans-by-sex", "metric": "selection_rate_ratio", "at_least": 0.8},
            ],
        }
    )
    layers = ["block7", "block13", "block15"]
    figures = {
        ("watermark", "carton"): [
            (0.12, 0.11, 0.05, 0.81, 0.09, 0.02),
            (0.38, 0.18, 0.08, 0.80, 0.16, 0.002),
            (1.49, 0.37, 0.17, 1.0, 0.32, 0.002),
        ],
        ("latin-text", "carton"): [
            (0.02, 0.09, 0.05, 0.55, 0.09, 0.74),
            (0.12, 0.15, 0.07, 0.72, 0.15, 0.08),
            (0.42, 0.28, 0.13, 0.98, 0.28, 0.004),
        ],
        ("stripes", "carton"): [
            (0.01, 0.08, 0.05, 0.49, 0.09, 0.86),
            (-0.03, 0.14, 0.08, 0.46, 0.16, 0.71),
            (-0.07, 0.21, 0.11, 0.41, 0.25, 0.56),
        ],
        ("stripes", "zebra"): [
            (0.31, 0.17, 0.07, 0.88, 0.10, 0.002),
            (0.95, 0.29, 0.12, 0.97, 0.16, 0.002),
            (1.21, 0.33, 0.16, 1.0, 0.30, 0.002),
        ],
    }
    rows = [
        row(
            concept,
            layer,
            target,
            effect=effect,
            half=half,
            null_sd=null_sd,
            score=score,
            null_score_sd=score_sd,
            p=p,
            p_corrected=min(1.0, 9 * p),
            accuracy=0.58 if (concept, layer) == ("latin-text", "block7") else 0.94,
            flags=(WEAK,)
            if (concept, layer) == ("latin-text", "block7")
            else (DEGENERATE,)
            if layer == "block15"
            else (),
        )
        for (concept, target), values in figures.items()
        for layer, (effect, half, null_sd, score, score_sd, p) in zip(layers, values, strict=True)
    ]
    report = Report(
        engine=ENGINE,
        audit=audit,
        plan=PlanSummary(
            layers=[
                LayerSummary(
                    layer=name,
                    tensor=f"/blocks/{depth}/Add_output_0",
                    operator="Add",
                    shape=["batch", 24 * depth, 28, 28],
                    features=24 * depth * 784,
                    depth=depth,
                    chosen=True,
                )
                for name, depth in zip(layers, (7, 13, 15), strict=True)
            ],
            targets=[
                TargetSummary(
                    target=name,
                    tensor="logits",
                    sentence=f"Class {index} of 'logits', read before the Softmax that makes 'probabilities'.",
                    unit="logit",
                    mean=-1.31,
                    sd=1.6,
                    examples=["a.png", "b.png", "c.png"],
                )
                for name, index in (("carton", 478), ("zebra", 340))
            ],
            examples=[
                ExampleSetSummary(name=name, source=digest(name), count=many, kind=kind)
                for name, many, kind in (
                    ("photos", 260, "images"),
                    ("watermarked", 60, "images"),
                    ("latin", 60, "images"),
                    ("striped", 40, "images"),
                    ("loans", 1989, "table"),
                )
            ],
            gradient_checks=[
                GradientCheck(layer=layer, target=target, relative_error=error, cosine=1.0, tolerance=0.01)
                for target in ("carton", "zebra")
                for layer, error in zip(layers, (3.1e-5, 1.9e-5, 4.4e-7), strict=True)
            ],
        ),
        tests=[
            *rows,
            measured(
                concept="watermark",
                change=2.91,
                interval=(2.61, 3.19),
                in_sd=1.82,
                interval_in_sd=(1.63, 1.99),
                p=0.002,
                decisions=DecisionChange(
                    probability_without=0.000312,
                    probability_with=0.0103,
                    flips_to=4,
                    flips_from=0,
                    rank=1,
                    classes=1000,
                ),
            ),
            measured(
                concept="latin-text",
                change=0.012,
                interval=(-0.05, 0.08),
                in_sd=0.0075,
                interval_in_sd=(-0.031, 0.05),
                p=0.56,
                decisions=DecisionChange(
                    probability_without=0.000312,
                    probability_with=0.000318,
                    flips_to=0,
                    flips_from=0,
                    rank=446,
                    classes=1000,
                ),
            ),
        ],
        comparisons=[
            Comparison(
                method="group_comparison",
                name="loans",
                decisions="recorded decisions (approve)",
                sensitive=["race"],
                rows=[
                    group_row("white", 1681, 0.908, 0.014, tpr=0.951, fpr=0.412, given=0.901),
                    group_row("black", 197, 0.707, 0.064, tpr=0.842, fpr=0.335, given=0.812),
                    group_row("hispanic", 108, 0.769, 0.080, tpr=0.872, fpr=0.402, given=0.839),
                    group_row("other", 3, 0.667, 0.333, tpr=None, fpr=None),
                ],
                metrics={
                    "selection_rate_ratio": Estimate(value=0.779, interval=(0.709, 0.848)),
                    "selection_rate_difference": Estimate(value=0.201, interval=(0.137, 0.265)),
                    "conditional_selection_rate_difference": Estimate(value=0.089, interval=(0.03, 0.148)),
                },
                conditional=GIVEN_CREDIT,
            ),
            Comparison(
                method="group_comparison",
                name="loans-by-sex",
                decisions="recorded decisions (approve)",
                sensitive=["sex"],
                rows=[group_row("female", 372, 0.866, 0.034), group_row("male", 1602, 0.881, 0.016)],
                metrics={"selection_rate_ratio": Estimate(value=0.983, interval=(0.94, 0.999))},
            ),
        ],
        matrices=[
            cosines(layer, ["watermark", "latin-text", "stripes"], [[1, a, b], [a, 1, c], [b, c, 1]])
            for layer, a, b, c in (
                ("block7", 0.61, -0.12, 0.08),
                ("block13", 0.44, -0.31, -0.02),
                ("block15", 0.38, -0.22, 0.11),
            )
        ],
        rankings=[ranking("watermark", "block15", "photos", 20), ranking("latin-text", "block15", "photos", 200)],
        warnings=["The model fixes its batch at 1; outputs were shown equal with a symbolic batch, which was used."],
        verdict=Verdict(outcome=None, lines=[]),
    )
    return judged(report, WATERMARK, LATIN, STRIPES, RACE, SEX)


def group_row(
    group: str,
    n: int,
    rate: float,
    half: float,
    tpr: float | None = None,
    fpr: float | None = None,
    given: float | None = None,
) -> GroupRow:
    def estimate(value: float | None) -> Estimate | None:
        return None if value is None else Estimate(value=value, interval=(max(0, value - half), min(1, value + half)))

    selection = estimate(rate)
    assert selection is not None
    return GroupRow(
        group=group,
        n=n,
        selection_rate=selection,
        true_positive_rate=estimate(tpr),
        false_positive_rate=estimate(fpr),
        small=n < 30,
        standardised_rate=estimate(given),
    )


@pytest.fixture(scope="session")
def one_row(watermark: Report) -> Report:
    """The smallest audit: one row, no gate, no pictures, nothing beside it."""
    audit = watermark.audit.model_copy(update={"gate": [], "groups": {}})
    empty: dict[str, object] = {"comparisons": [], "matrices": [], "rankings": [], "warnings": []}
    return judged(watermark.model_copy(update={"audit": audit, "tests": watermark.associations[2:3], **empty}))


@pytest.fixture(scope="session")
def groups_only(watermark: Report) -> Report:
    """No concept at all: decisions of two groups, and a gate that passes."""
    audit = watermark.audit.model_copy(update={"gate": watermark.audit.gate[4:], "concepts": {}, "targets": {}})
    plan = watermark.plan.model_copy(update={"layers": [], "targets": [], "gradient_checks": []})
    empty: dict[str, object] = {"tests": [], "matrices": [], "rankings": [], "warnings": []}
    groups = watermark.comparisons[1:]
    return judged(watermark.model_copy(update={"audit": audit, "plan": plan, "comparisons": groups, **empty}), SEX)


@pytest.fixture(scope="session")
def sixty_rows(watermark: Report) -> Report:
    """Five concepts, three targets, four layers, under names as long as models make them."""
    concepts = [f"concept-{word}" for word in ("watermark", "latin-text", "stripes", "indoor-light", "hand-in-frame")]
    layers = [
        "/model/backbone/features/features.7/conv/conv.3/BatchNormalization_output_0@mean",
        "/model/backbone/features/features.13/block/depthwise_separable_convolution/Add_output_0@mean",
        "block15",
        "head@token:0",
    ]
    rows = [
        row(
            concept,
            layer,
            target,
            effect=(effect := 1.9 * exp(-((i + 2 * j + 3 * k) % 7)) * (-1) ** (i + k)),
            half=0.12 + abs(effect) / 3,
            null_sd=0.08 + 0.02 * k,
            score=min(1, max(0, 0.5 + effect / 2)),
            null_score_sd=0.1 + 0.04 * k,
            p=0.002 if abs(effect) > 0.5 else 0.31,
            p_corrected=0.03 if abs(effect) > 0.5 else 1.0,
        )
        for i, concept in enumerate(concepts)
        for j, target in enumerate(
            ("carton", "zebra", "a-target-with-a-name-of-no-fewer-than-sixty-four-letters-in-all")
        )
        for k, layer in enumerate(layers)
    ]
    empty: dict[str, object] = {"comparisons": [], "rankings": []}
    audit = watermark.audit.model_copy(
        update={
            "groups": {},
            "gate": [
                line.model_copy(update={"concept": concept})
                for concept in concepts
                for line in watermark.audit.gate[:1]
            ],
        }
    )
    matrices = [
        cosines(
            layer,
            concepts,
            [[1 if a == b else 0.17 * ((a + b) % 5) - 0.3 for a in range(5)] for b in range(5)],
        )
        for layer in layers
    ]
    said: list[Said] = [
        (
            "inconclusive" if concept == "concept-indoor-light" else "fail",
            "inconclusive" if concept == "concept-indoor-light" else "influential",
            f"{concept} must not matter to carton",
            f"At {layers[i % 4]} a step towards {concept} moves carton by +1.19 sd (corrected p 0.03).",
        )
        for i, concept in enumerate(concepts)
    ]
    return judged(watermark.model_copy(update={"audit": audit, "tests": rows, "matrices": matrices, **empty}), *said)


@pytest.fixture(scope="session")
def hostile(watermark: Report) -> Report:
    """Every string that a model, a folder or a table may choose holds something nasty."""
    first = watermark.associations[2]
    flag = Flag(code="few_examples", sentence=HOSTILE, blocking=True)
    ranked = RankedExample(example=HOSTILE, position=0, projection=1.0, thumbnail="https://evil.example/pixel.png")
    inline = RankedExample(example=HOSTILE, position=0, projection=1.0, thumbnail="data:image/svg+xml;base64,PHN2Zy8+")
    group = watermark.comparisons[0]
    return judged(
        watermark.model_copy(
            update={
                "tests": [
                    first.model_copy(update={"layer": HOSTILE, "flags": [flag]}),
                    *watermark.interventions,
                ],
                "rankings": [
                    Ranking(
                        method="tcav",
                        title="watermark",
                        caption=CAPTION,
                        layer=HOSTILE,
                        examples="photos",
                        most=[ranked],
                        least=[inline],
                    )
                ],
                "comparisons": [
                    group.model_copy(
                        update={
                            "decisions": HOSTILE,
                            "sensitive": [HOSTILE],
                            "rows": [group.rows[0].model_copy(update={"group": HOSTILE})],
                            "conditional": GIVEN_CREDIT.model_copy(update={"given": [HOSTILE], "sentence": HOSTILE}),
                        }
                    )
                ],
                "matrices": [watermark.matrices[0].model_copy(update={"layer": HOSTILE})],
                "warnings": [HOSTILE],
                "plan": watermark.plan.model_copy(
                    update={
                        "layers": [
                            watermark.plan.layers[0].model_copy(
                                update={"layer": HOSTILE, "tensor": HOSTILE, "operator": HOSTILE, "shape": [HOSTILE, 3]}
                            )
                        ],
                        "targets": [
                            watermark.plan.targets[0].model_copy(update={"sentence": HOSTILE, "unit": HOSTILE})
                        ],
                    }
                ),
            }
        ),
        ("inconclusive", "inconclusive", "watermark must not matter to carton", f"Every layer is flagged: {HOSTILE}."),
        LATIN,
        STRIPES,
        ("fail", None, "selection rate ratio of loans at least 0.8", f"By {HOSTILE} it is 0.779."),
        SEX,
    )


def seen(example: str, figures: list[Figure], match_of: str | None = None, **more: Any) -> Panel:
    return Panel(
        **{"example": example, "position": 0, "set": "photos", "value": 3.01, "thumbnail": thumbnail(20, 9), **more},
        match_of=match_of,
        figures=figures,
    )


def mapped(example: str, share: float, largest: int) -> Figure:
    """A map of four by four places whose second row holds the concept."""
    cells = bytes([0] * 4 + [largest, 256 - largest // 2, largest, largest] + [3] * 8)
    return Figure(
        element=Element.model_validate("gradient_x_input"),
        presentation="map",
        layer="input",
        atoms_of="pixels",
        title="Gradient x input",
        sentence=f"In {example}, what raises carton most lies in the middle.",
        map=Grid(shape=(4, 4), scale=0.42, cells=base64.b64encode(cells).decode()),
        atoms=[Atom(id="rows 57–112, columns 1–56", place=[1, 0], value=0.42 * largest / 127)],
        rest=Rest(count=15, sum=0.3),
        scale=0.42,
        total=1.1,
        focus=Focus(share=share, area=0.25, value=0.9),
        checks=[Check(code="flat", value=0.2, bound=0.0, ok=True, sentence="The target's gradient is not zero.")],
        notes=["The baseline is 0, which is mean grey."],
    )


def listed(presentation: Presentation, names: list[str], atoms_of: Atoms = "pixels") -> Figure:
    """Bars, words or a table, with a range and a value by removal for some of them."""
    return Figure(
        element=Element.model_validate("saliency"),
        presentation=presentation,
        layer="input",
        atoms_of=atoms_of,
        title=f"Saliency of {names[0]}",
        sentence=f"In row 7, {names[0]} raises carton most (+1.2).",
        atoms=[
            Atom(id=name, place=[i], value=1.2 / (i + 1) * (-1) ** i, spread=(0.1, 0.9) if i else None, confirmed=1.0)
            for i, name in enumerate(names)
        ],
        rest=Rest(count=4, sum=-0.1),
        scale=1.2,
    )


def linked() -> Figure:
    """Two channels of a later layer, with what they come from."""
    links = [("channel 3", "channel 12", 0.8), ("channel 4", "channel 12", -0.4), ("channel 3", "channel 9", 0.2)]
    return listed("flow", ["channel 3", "channel 4"], "channels").model_copy(
        update={"links": [Link(source=source, sink=sink, value=value) for source, sink, value in links]}
    )


@pytest.fixture(scope="session")
def explained(watermark: Report) -> Report:
    """Explanations in every presentation, one withheld, with names that hold something nasty."""
    words = ["the", HOSTILE, "watermark", "is", "here"]
    failed = "The parts do not add up to the score: 3.53 of 5.42 is missing."
    withheld = listed("bars", ["age"]).model_copy(update={"withheld": failed, "sentence": failed, "atoms": []})
    return watermark.model_copy(
        update={
            "explanations": [
                Explained(
                    name="why_carton",
                    target="carton",
                    unit="logit",
                    selection="Of 45 examples of watermarked, the 1 example whose carton differs most.",
                    reading=["Gradient x input: Multiplies each input by the target's derivative there."],
                    panels=[
                        seen("cat.png", [mapped("cat.png", 0.81, 127), withheld]),
                        seen("cat.png", [mapped("cat.png", 0.12, 20), withheld], match_of="cat.png"),
                        seen(HOSTILE, [mapped(HOSTILE, 0.3, 90)], thumbnail="https://evil.example/pixel.png"),
                    ],
                    passes=120,
                ),
                Explained(
                    name="in_words",
                    target="carton",
                    unit="logit",
                    selection="1 example chosen by name.",
                    reading=[],
                    panels=[
                        seen(
                            "row 7",
                            [listed("bars", ["age", HOSTILE]), listed("table", ["age", "income"])],
                            thumbnail=None,
                        ),
                        seen("text 3", [listed("strip", words), linked()], thumbnail=None),
                    ],
                    passes=12,
                ),
            ]
        }
    )


@pytest.fixture(params=["watermark", "one_row", "groups_only", "sixty_rows", "hostile", "explained"])
def report(request: pytest.FixtureRequest) -> Report:
    """Each of the reports in turn."""
    chosen: Report = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(scope="session")
def golden() -> Callable[[str, str], str]:
    """What a text should be, from a file that is reviewed as a diff; `REGENERATE_GOLDENS=1` writes it anew."""

    def reviewed(name: str, text: str) -> str:
        path = Path(__file__).parent / "goldens" / name
        if os.environ.get("REGENERATE_GOLDENS"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        return path.read_text(encoding="utf-8")

    return reviewed
