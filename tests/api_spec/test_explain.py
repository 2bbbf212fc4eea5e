"""The grammar of `explain`: what may be written, what it is short for, and what is refused, with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from caveat_spec.audit import Audit
from caveat_spec.explain import RECIPES


def audit(show: list[Any], examples: dict[str, Any] | None = None, **more: Any) -> Audit:
    """The smallest audit that explains, read as strictly as a file is."""
    document = {
        "model": "model.onnx",
        "examples": {
            "photos": {"arrays": "photos.npy"},
            "marked": {"arrays": "marked.npy", "pairs_with": "photos"},
            "others": {"arrays": "others.npy"},
        },
        "targets": {"carton": {"examples": "photos"}, "zebra": {"examples": "others"}},
        "explain": {"why": {"of": "carton", "show": show, **({} if examples is None else {"examples": examples})}},
        **more,
    }
    return Audit.model_validate_json(json.dumps(document), strict=True)


@pytest.mark.parametrize(
    "short",
    [
        "saliency",
        {"saliency": None},
        {"saliency": {"layer": "input"}},
        {"saliency": {}, "top": 8},
        {"by": "saliency"},
        {"by": "saliency", "options": {"layer": "input"}, "top": 8},
    ],
)
def test_an_element_may_be_short_and_means_the_same(short: Any) -> None:
    (element,) = audit([short]).explain["why"].show
    assert element.model_dump(mode="json") == {
        "by": "saliency", "options": {"layer": "input"}, "as": None, "top": 8, "sort": "size",
        "only": [], "icons": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_short_for_its_elements(name: str) -> None:
    assert audit([name, "saliency"]).explain == audit([*RECIPES[name], "saliency"]).explain


def test_a_layer_alone_is_taken_apart_and_the_deepest_is_the_default() -> None:
    first, second = audit([{"layer": "block13", "atoms": "positions"}, "linear"]).explain["why"].show
    assert (first.by, first.layer, first.options["atoms"]) == ("linear", "block13", "positions")
    assert (second.by, second.layer) == ("linear", "auto")


def test_a_layer_to_a_later_layer_is_layer_to_layer() -> None:
    long = {"layer_to_layer": {"layer": "block10", "upper": "block13", "atoms": "channels"}, "as": "grid"}
    for to in ({"layer": "block13", "atoms": "channels"}, {"layer": "block13"}):
        short = {"layer": "block10", "atoms": "channels", "to": to, "as": "grid"}
        assert audit([short]).explain == audit([long]).explain
    (alone,) = (
        audit([{"layer": "block10", "to": {"layer": "block13", "atoms": "channels"}, "most": 5}]).explain["why"].show
    )
    assert (alone.options["atoms"], alone.options["most"]) == ("channels", 5)


def test_groups_of_a_layer_to_a_later_layer_are_compatible_groups() -> None:
    long = {"compatible_groups": {"layer": "block10", "upper": "block13", "count": 4}}
    for to in ({"layer": "block13", "atoms": "groups"}, {"layer": "block13"}):
        short = {"layer": "block10", "atoms": "groups", "count": 4, "to": to}
        assert audit([short]).explain == audit([long]).explain


def test_the_set_that_icons_are_from_is_kept_with_what_is_explained() -> None:
    only = audit([{"activation": {"icons": "others"}}]).only_explained()
    assert set(only.examples) == {"photos", "others"}


def test_what_a_report_holds_can_be_asked_again() -> None:
    asked = audit(["saliency", {"gradient_x_input": {"top": 4, "as": "table"}}])
    assert Audit.model_validate_json(asked.model_dump_json(), strict=True) == asked


def test_the_examples_are_those_of_the_target_by_default() -> None:
    assert audit(["saliency"]).explained_set("why") == "photos"
    assert audit(["saliency"], {"set": "marked"}).explained_set("why") == "marked"


def test_only_what_is_explained_is_left() -> None:
    whole = audit(
        ["saliency"],
        {"set": "marked"},
        concepts={"mark": {"examples": "marked", "against": "photos"}},
        gate=[{"concept": "mark", "target": "carton", "must": "not_matter"}],
    )
    only = whole.only_explained()
    assert (only.concepts, only.gate, set(only.examples), set(only.targets)) == (
        {},
        [],
        {"photos", "marked"},
        {"carton"},
    )
    assert Audit.model_validate(only.model_dump(mode="json")) == only


@pytest.mark.parametrize(
    ("show", "examples", "sentence"),
    [
        (["salency"], None, "'salency' is neither a method nor a recipe; there are saliency"),
        ([{"by": {"saliency": {}}}], None, "'{'saliency': {}}' is neither a method nor a recipe; there are"),
        ([{"by": "saliency", "options": 3}], None, "the options of saliency are a mapping, such as {top: 4}"),
        ([{"saliency": {"windw": 3}}], None, "saliency has no option 'windw'"),
        ([{"concept_score": {"layer": "a"}}], None, "concept_score needs its option 'concept'"),
        ([{"by": "activation", "layer": "a"}], None, "'layer' is no field beside 'by'; write {activation: {layer: …}}"),
        ([{"saliency": 3}], None, "the options of saliency are a mapping"),
        ([{"saliency": {}, "gradient_x_input": {}}], None, "an element has one method"),
        ([{"layer": "a", "to": "zebra"}], None, "a target is named in the explanation's 'of'"),
        ([{"layer": "a", "to": {"atoms": "channels"}}], None, "'to' is a later layer, such as {layer: block10, to:"),
        ([{"to": {"layer": "b"}}], None, "'to' needs the layer that is taken apart beside it"),
        ([{"layer": "a", "to": {"layer": "b", "most": 3}}], None, "has a layer and its atoms, and no 'most'"),
        (
            [{"layer": "a", "atoms": "channels", "to": {"layer": "b", "atoms": "positions"}}],
            None,
            "both layers are cut into the same atoms, and these are channels and positions; name one",
        ),
        ([{"layer": "a", "confirm": 3, "to": {"layer": "b"}}], None, "layer_to_layer has no option 'confirm'"),
        ([{"layer": "a", "to": {"layer": 7}}], None, "layer_to_layer: upper: Input should be a valid string"),
        ([7], None, "an element is a method's name"),
        ([], None, "at least 1 item"),
        ([{"groups": {"layer": "x", "count": 9}}], None, "9 groups are more than anybody compares at a glance"),
        ([{"activation": {"only": [*range(9)]}}], None, "9 atoms are more than anybody compares at a glance"),
        ([{"layer": "x", "as": "bars", "icons": "others"}], None, "this element is drawn as bars"),
        ([{"activation": {"icons": "photoes"}}], None, "show/0/icons names the example set 'photoes', which is not"),
        ([{"saliency": {"top": 12}}], None, "12 atoms are more than anybody compares at a glance; the most is 8"),
        (["saliency"], {"count": 9}, "9 examples are more than anybody compares at a glance; the most is 8"),
        (["saliency"], {"pick": [str(i) for i in range(9)]}, "pick names 9 examples; 8 are as many"),
        (["saliency"] * 9, None, "show has 9 elements; 8 are as many as anybody reads"),
        (["saliency"], {"set": "photoes"}, "names the example set 'photoes', which is not declared"),
        (
            ["saliency"],
            {"set": "others", "pairs": True},
            "/explain/why/examples/pairs needs matches, and 'others' has none",
        ),
        (["saliency"], {"set": "others", "pick": "most_changed"}, "/explain/why/examples/pick needs matches"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(show: list[Any], examples: Any, sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        audit(show, examples)
    assert sentence in str(refused.value)


def test_the_schema_names_every_method_and_its_options() -> None:
    schema = Audit.model_json_schema()["$defs"]["Element"]
    names, *others, _ = schema["anyOf"]
    recipes, short = others[: len(RECIPES)], others[len(RECIPES)]
    assert [one["const"] for one in recipes] == list(RECIPES)
    assert "saliency" in names["enum"]
    assert "layer" in short["properties"]["saliency"]["anyOf"][0]["properties"]


@pytest.mark.parametrize(
    "element",
    [
        "saliency",
        "where",
        {"occlusion": {"window": 15}, "as": "table", "top": 3},
        {"layer": "block13", "atoms": "channels", "as": "icons", "icons": "photos"},
        {"concept": "mark", "layer": "block13"},
        {"layer": "block10", "to": {"layer": "block13", "atoms": "positions"}, "as": "grid"},
        {"layer": "block10", "atoms": "groups", "count": 3, "to": {"layer": "block13", "atoms": "groups"}},
        {"by": "saliency", "options": {"layer": "input"}},
    ],
)
def test_the_schema_takes_each_short_form_and_no_field_that_it_does_not_know(element: Any) -> None:
    schema = Audit.model_json_schema()
    element_alone = Draft202012Validator({"$ref": "#/$defs/Element", "$defs": schema["$defs"]})
    assert element_alone.is_valid(element)
    assert isinstance(element, str) or not element_alone.is_valid({**element, "windw": 3})
