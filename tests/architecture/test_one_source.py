"""Each fact is declared once; where a second place needs it by name, the two are the same."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

import pytest

from caveat_reports import html, sarif, summary
from caveat_spec import report, results
from caveat_spec.artifacts import STAGES, Stage
from caveat_spec.attribute_docs import field_docs
from caveat_spec.audit import ConceptLine, Estimator, ExampleKind, Examples, GroupMetric, Method
from caveat_spec.baseline import KIND
from caveat_spec.gate import WORST_FIRST
from caveat_worker.engine.concepts.cav import ESTIMATORS, SCIKIT_LEARN
from caveat_worker.engine.concepts.fit_problem import Settings

KINDS = [get_args(kind)[0] for kind in get_args(get_args(Examples)[0])]
CORRECTIONS = get_args(Method.model_fields["correction"].annotation)
MUST = get_args(ConceptLine.model_fields["must"].annotation)


@pytest.mark.parametrize(
    ("declared", "used"),
    [
        pytest.param(get_args(Stage), STAGES, id="stages"),
        pytest.param(get_args(ExampleKind), [next(iter(kind.SOURCES)) for kind in KINDS], id="kinds of examples"),
        pytest.param(get_args(ExampleKind), html.EXAMPLE_NOUNS, id="nouns of examples"),
        pytest.param(get_args(results.FlagCode), summary.FLAG_WORDS, id="flags"),
        pytest.param(get_args(GroupMetric), summary.METRIC_WORDS, id="group metrics"),
        pytest.param(get_args(report.Finding), summary.FINDING_WORDS, id="findings"),
        pytest.param(get_args(report.Outcome), summary.OUTCOME_WORD, id="outcomes"),
        pytest.param(get_args(report.Outcome), WORST_FIRST, id="outcomes, the worst first"),
        pytest.param(get_args(results.Evidence), KIND, id="evidence"),
        pytest.param(CORRECTIONS, summary.CORRECTION_WORDS, id="corrections"),
        pytest.param(
            get_args(Estimator), [*ESTIMATORS, *(f"scikit_learn.{name}" for name in SCIKIT_LEARN)], id="estimators"
        ),
        pytest.param(
            [f"concept/must-{must.replace('_', '-')}" for must in MUST] + ["group/metric"],
            sarif.RULES,
            id="rules of SARIF",
        ),
    ],
)
def test_two_places_agree(declared: Any, used: Any) -> None:
    assert sorted(declared) == sorted(used)


def test_stages_come_in_the_order_of_the_pipeline() -> None:
    assert list(STAGES) == list(get_args(Stage))
    assert list(STAGES.values()) == sorted(STAGES.values())


def test_defaults_of_the_statistics_are_those_of_an_audit() -> None:
    assert {field.name: field.default for field in fields(Settings)} == {
        field.name: getattr(Method(), field.name) for field in fields(Settings)
    }


def test_a_small_group_is_small_by_one_number() -> None:
    assert str(results.SMALL_GROUP) in field_docs(results.GroupRow)["small"]
