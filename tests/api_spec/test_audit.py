"""The audit: what is short for what, and what is refused with which sentence."""

from __future__ import annotations

import copy

import pytest
from pydantic import ValidationError

from caveat_spec.audit import Audit
from tests.api_spec.handmade import AUDIT


def changed(path: str, value: object) -> dict:
    document = copy.deepcopy(AUDIT)
    *parents, last = path.split("/")
    place: dict = document
    for part in parents:
        place = place.setdefault(part, {})
    place[last] = value
    return document


def test_layers_may_be_written_short() -> None:
    layers = Audit.model_validate(changed("layers", ["block15", "block7@mean", "h@token:3", "odd@name"])).layers
    assert [(layer.tensor, layer.reduce) for layer in layers if not isinstance(layer, str)] == [
        ("block15", "flatten"),
        ("block7", "mean"),
        ("h", "token:3"),
        ("odd@name", "flatten"),
    ]


def test_sources_are_found_and_replaced() -> None:
    audit = Audit.model_validate(AUDIT)
    places = {pointer: f"sha256:{i:064x}" for i, pointer in enumerate(audit.sources())}
    assert list(places) == ["/model", "/examples/photos/images", "/examples/marked/images"]
    assert audit.with_sources(places).sources() == places


def test_an_audit_survives_json() -> None:
    audit = Audit.model_validate(AUDIT)
    assert Audit.model_validate_json(audit.model_dump_json(), strict=True) == audit


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("concepts/mark/examples", "mrked", "declared: marked, photos"),
        ("concepts/mark/against", "nothing", "'nothing', which is not declared"),
        ("targets/carton/examples", "x", "/targets/carton/examples names the example set 'x'"),
        ("gate", [{"concept": "m", "target": "carton", "must": "not_matter"}], "/gate/0/concept"),
        ("gate", [{"must": "not_matter"}], "one of the keys 'concept' or 'group'"),
        ("gate", [{"group": "g", "metric": "selection_rate_ratio"}], "at_least"),
        ("examples/photos", {"picture": "x"}, "one of the keys 'images', 'arrays', 'table' or 'text'"),
        ("examples/photos/preprocess/std", 0, "std is 0"),
        ("examples/photos/preprocess/mean", [1, 2], "mean has 2 numbers"),
        ("targets", {}, "concepts need at least one entry in 'targets'"),
        ("method/runs", 1, "greater than or equal to 2"),
        ("method/runz", 5, "Extra inputs"),
        ("groups/g", {"examples": "photos", "sensitive": ["race"]}, "either 'decision'"),
        ("groups/g", {"examples": "photos", "sensitive": ["race"], "decision": "d"}, "not a table"),
        (
            "groups/g",
            {"examples": "people", "sensitive": ["race"], "decision": "d", "given": ["race"]},
            "'given' names 'race'",
        ),
        ("layers", [], "at least 1 item"),
    ],
)
def test_what_is_wrong_is_said(path: str, value: object, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Audit.model_validate(changed(path, value))


def test_a_conditional_metric_needs_columns_that_are_given() -> None:
    group = {"examples": "people", "sensitive": ["race"], "decision": "d"}
    asked = {
        **AUDIT,
        "examples": {**AUDIT["examples"], "people": {"table": "people.csv"}},
        "gate": [{"group": "g", "metric": "conditional_selection_rate_difference", "at_most": 0.05}],
    }
    with pytest.raises(ValidationError, match=r"/gate/0/metric .*/groups/g has no 'given'"):
        Audit.model_validate({**asked, "groups": {"g": group}})
    Audit.model_validate({**asked, "groups": {"g": {**group, "given": ["income"]}}})


def test_an_audit_that_asks_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing is asked"):
        Audit.model_validate({**AUDIT, "concepts": {}, "targets": {}})
