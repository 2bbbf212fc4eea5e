"""The grammar of explanations: a substrate, its atoms, a content, a presentation and transforms, one element a line.

It is that of *The Building Blocks of Interpretability* (Olah et al. 2018): what is shown is a layer cut into atoms,
each with its part of a number, drawn in one way. The name of a method is an element of its own; a recipe is data.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from caveat_spec.base import Document, Integer, Name
from caveat_spec.explanations import explanations

MOST_PICTURES = 8
MOST_ATOMS = 8
MOST_ELEMENTS = 8

Atoms = Literal[
    "pixels", "positions", "channels", "neurons", "concepts", "groups", "components", "examples", "proposals", "patches"
]
"""What a layer is cut into; `pixels` are a picture's places, a table's columns, a text's tokens; `patches` are places
of many examples."""
Presentation = Literal["map", "strip", "flow", "grid", "bars", "icons", "patches", "colours", "table"]
"""`flow` and `grid` are of two layers: ribbons from atom to atom, and a small map for each atom of the upper one.
`icons` show what an atom looks for: examples at which it is highest, lowest, and in between. `patches` show each place
of a layer by the part of an example that is most like it, as large as its number; `colours` mix three components."""
Pick = Literal["highest", "lowest", "errors", "most_changed"]

PRESENTATIONS: dict[Atoms, tuple[Presentation, ...]] = {
    "pixels": ("map", "strip", "bars", "table"),
    "positions": ("grid", "map", "strip", "bars", "flow", "patches", "table"),
    "channels": ("flow", "grid", "bars", "icons", "table"),
    "neurons": ("bars", "icons", "table"),
    "concepts": ("icons", "bars", "table"),
    "groups": ("flow", "grid", "icons", "bars", "table"),
    "components": ("colours", "icons", "bars", "table"),
    "examples": ("bars", "table"),
    "proposals": ("icons", "bars", "table"),
    "patches": ("icons", "table"),
}
"""How atoms of each kind may be shown: the first that suits the examples is the default."""
WITH_ICONS: tuple[Presentation, ...] = ("icons", "patches", "flow")
"""Presentations that show examples of a set: ribbons where one is named."""

RECIPES: dict[str, tuple[Any, ...]] = {
    "where": ("shapley", "integrated_gradients"),
    "spatial_attribution": ({"layer": "auto", "atoms": "positions"},),
    "channel_attribution": ({"layer": "auto", "atoms": "channels"},),
    "teaser": ({"layer": "auto", "atoms": "channels", "as": "icons", "top": 4},),
    "semantic_dictionary": ({"activation": {"layer": "auto", "top": 4}},),
    "activation_grid": ({"activation_norm": {"layer": "auto"}},),
    "groups_flow": ({"compatible_groups": {"layer": "auto"}},),
}
"""Several elements, or one with its options, under a name; a report holds them written out."""
BY_DEFAULT = "linear"
"""The method of an element that names a layer and nothing else: `{layer: block13, atoms: channels}`."""
OF_CONCEPTS = "cav_attribution"
"""The method of an element that names a concept: `{concept: watermark}`."""
TO_LAYER = "layer_to_layer"
"""The method of an element that says `to` which later layer it goes: `{layer: block10, to: {layer: block13}}`."""
GROUPS_TO_LAYER = "compatible_groups"
"""The same of groups: `{layer: block10, atoms: groups, to: {layer: block13}}`."""

_METHODS = explanations()


def _capped(most: int, of: str) -> Any:
    """Refuses more than a person compares at a glance."""

    def checked(number: int) -> int:
        if number > most:
            raise ValueError(f"{number} {of} are more than anybody compares at a glance; the most is {most}")
        return number

    return AfterValidator(checked)


def _few(numbers: list[int]) -> list[int]:
    """Numbers of atoms, each once, and no more than a person compares."""
    if len(numbers) > MOST_ATOMS:
        raise ValueError(f"{len(numbers)} atoms are more than anybody compares at a glance; the most is {MOST_ATOMS}")
    return list(dict.fromkeys(numbers))


Pictures = Annotated[
    Integer, Field(ge=1, json_schema_extra={"maximum": MOST_PICTURES}), _capped(MOST_PICTURES, "examples")
]
Shown = Annotated[Integer, Field(ge=1, json_schema_extra={"maximum": MOST_ATOMS}), _capped(MOST_ATOMS, "atoms")]


class Chosen(Document):
    """The examples that are explained: some of a set, by a rule or by name."""

    set: Name | None = None
    """The example set; the target's own when left out."""
    pick: Pick | Annotated[list[str], Field(min_length=1)] = "highest"
    """`highest` and `lowest` by the target's number; `errors`: another class wins, by the widest margin first;
    `most_changed`: the number differs most from that of the example's match in `pairs_with`; or names."""
    label: str | None = None
    """A column of the table that holds true classes, by number or by name: `errors` are then the examples for which the
    model's answer about the target's class is not theirs, the most certain first."""
    count: Pictures = 3
    pairs: bool = False
    """Whether each example is followed by its match in `pairs_with`, on the same scale."""

    @property
    def most(self) -> int:
        """How many examples there are at most, without their matches."""
        return len(self.pick) if isinstance(self.pick, list) else self.count

    @model_validator(mode="after")
    def _labels_tell_errors(self) -> Self:
        if self.label is not None and self.pick != "errors":
            raise ValueError("'label' says which examples are errors: add `pick: errors`, or leave it out")
        return self

    @model_validator(mode="after")
    def _names_are_few(self) -> Self:
        if isinstance(self.pick, list) and len(self.pick) > MOST_PICTURES:
            raise ValueError(f"pick names {len(self.pick)} examples; {MOST_PICTURES} are as many as anybody compares")
        return self


class Element(Document):
    """One line of an explanation: a method at the atoms of a layer, and how they are drawn."""

    by: str
    """A method's name."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """The method's own, such as `layer`: `input`, a tensor, or `auto`, the deepest layer of the audit."""
    as_: Presentation | None = Field(default=None, alias="as")
    """By default what fits the atoms and the examples."""
    top: Shown = MOST_ATOMS
    """How many atoms are shown; the others are a number and a sum."""
    sort: Literal["size", "signed"] = "size"
    only: Annotated[
        list[Annotated[Integer, Field(ge=0)]],
        Field(json_schema_extra={"maxItems": MOST_ATOMS}),
        AfterValidator(_few),
    ] = Field(default_factory=list)
    """The numbers of the atoms that are shown, such as channels 17 and 203, in place of the largest."""
    icons: Name | None = None
    """The example set that icons are from; the explained one when left out."""

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, asked: Any) -> Any:
        """`saliency` and `{occlusion: {window: 15, top: 4}}` are short for an element with its options."""
        if isinstance(asked, str):
            asked = {"by": asked}
        if not isinstance(asked, dict):
            raise ValueError(f"an element is a method's name, such as {_some()}, or a mapping with one")
        if beside := sorted({*asked} - _FIELDS - {"by"}) if "by" in asked else []:
            raise ValueError(f"'{beside[0]}' is no field beside 'by'; write {{{asked['by']}: {{{beside[0]}: …}}}}")
        return _with_defaults(asked if "by" in asked else _by_name(asked))

    @model_validator(mode="after")
    def _icons_are_drawn(self) -> Self:
        if self.icons is not None and self.as_ not in (None, *WITH_ICONS):
            raise ValueError(f"'icons' names the set that icons are from, and this element is drawn as {self.as_}")
        return self

    @property
    def layer(self) -> str:
        """The layer that is explained."""
        return str(self.options.get("layer", "input"))

    @property
    def asked_set(self) -> str | None:
        """The example set that the method is about, where it is about one."""
        named = self.options.get(self.set_option)
        return None if named is None else str(named)

    @property
    def set_option(self) -> str:
        """The option that names that set."""
        return next((name for name in ("training", "over") if name in self.options), "examples")

    @property
    def beyond_concepts(self) -> bool:
        """Whether the method is about what is left beside all concepts of the audit."""
        return "known_at" in self.options

    @property
    def concept(self) -> str | None:
        """The concept that is shown, where the method is about one."""
        named = self.options.get("concept")
        return None if named is None else str(named)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A name, a name with its options, or the element written out."""
        written_out = super().__get_pydantic_json_schema__(core, handler)
        shared = {name: written_out["properties"][name] for name in sorted(_FIELDS - {"options"})}
        forms = [{**named, **shared} for named in _short_forms()]
        short = [{"type": "object", "properties": form, "additionalProperties": False} for form in forms]
        return {"anyOf": [{"enum": [*_METHODS]}, *_recipe_schemas(), *short, written_out]}


_FIELDS = {"options", "as", "top", "sort", "only", "icons"}
"""What every element may say, whatever its method."""


def _by_name(asked: dict[str, Any]) -> dict[str, Any]:
    """`{occlusion: {window: 15, top: 4}}`, `{layer: block13, atoms: channels}`, `{concept: mark}` and
    `{layer: block10, to: {layer: block13}}` written out.
    """
    named = [key for key in asked if key not in _FIELDS]
    if "to" in named:
        own = _to_layer({key: asked[key] for key in named})
        by = GROUPS_TO_LAYER if own.get("atoms") == "groups" else TO_LAYER
        return {"by": by, "options": own, **_shared(asked)}
    for method in (BY_DEFAULT, OF_CONCEPTS) if named else ():
        if method in _METHODS and set(named) <= _METHODS[method].options.model_fields.keys():
            return {"by": method, "options": {key: asked[key] for key in named}, **_shared(asked)}
    if len(named) != 1:
        raise ValueError(f"an element has one method, such as {_some()}; this one has {len(named)}")
    inner = {} if asked[named[0]] is None else asked[named[0]]
    if not isinstance(inner, dict):
        raise ValueError(f"the options of {named[0]} are a mapping, such as {{{named[0]}: {{top: 4}}}}")
    every = {**inner, **{key: value for key, value in asked.items() if key in _FIELDS}}
    own = {key: value for key, value in every.items() if key not in _FIELDS}
    return {"by": named[0], "options": own, **_shared(every)}


def _to_layer(asked: dict[str, Any]) -> dict[str, Any]:
    """The options of two layers; raises ValueError for a target, and for layers that are cut into different atoms."""
    to = asked.pop("to")
    example = "{layer: block10, to: {layer: block13}}"
    if not isinstance(to, dict) or "layer" not in to:
        raise ValueError(f"'to' is a later layer, such as {example}; a target is named in the explanation's 'of'")
    if "layer" not in asked:
        raise ValueError(f"'to' needs the layer that is taken apart beside it, such as {example}")
    if others := sorted({*to} - {"layer", "atoms"}):
        raise ValueError(f"'to' has a layer and its atoms, and no '{others[0]}', which is said beside it")
    atoms = [one["atoms"] for one in (asked, to) if "atoms" in one]
    if len(atoms) == 2 and atoms[0] != atoms[1]:
        raise ValueError(f"both layers are cut into the same atoms, and these are {atoms[0]} and {atoms[1]}; name one")
    return {**asked, **({"atoms": atoms[0]} if atoms else {}), "upper": to["layer"]}


def _shared(asked: dict[str, Any]) -> dict[str, Any]:
    """What an element says whatever its method is."""
    return {key: value for key, value in asked.items() if key in _FIELDS}


def _with_defaults(asked: dict[str, Any]) -> dict[str, Any]:
    """An element with every default of its method's options; raises ValueError for what the method does not have."""
    by, given = asked["by"], asked.get("options", {})
    entry = _METHODS.get(by) if isinstance(by, str) else None
    if entry is None:
        raise ValueError(f"'{by}' is neither a method nor a recipe; {_nearest(str(by))}")
    if not isinstance(given, dict):
        raise ValueError(f"the options of {by} are a mapping, such as {{top: 4}}")
    layer = entry.options.model_fields.get("layer")
    own = {"layer": "auto"} if layer is not None and layer.is_required() else {}
    try:
        options = entry.options.model_validate({**own, **given})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        if first["type"] == "missing":
            raise ValueError(f"{entry.name} needs its option '{place}'") from None
        if first["type"] == "extra_forbidden":
            known = ", ".join(entry.options.model_fields)
            has = f"its options are {known}" if known else "it has none"
            raise ValueError(f"{entry.name} has no option '{place}'; {has}") from None
        raise ValueError(": ".join(filter(None, [entry.name, place, first["msg"]]))) from None
    return {**asked, "options": options.model_dump(mode="json")}


def _options_schema(options: type[Document]) -> JsonSchemaValue:
    """A method's options, and beside them what every element may say."""
    own: dict[str, Any] = options.model_json_schema()["properties"] if options.model_fields else {}
    return {"anyOf": [{"type": "object", "properties": own}, {"type": "null"}]}


def _short_forms() -> list[dict[str, JsonSchemaValue]]:
    """The fields of each short form: methods by name, what a layer or a concept is shown by, and two layers."""
    named = {name: _options_schema(entry.options) for name, entry in _METHODS.items()}
    by_layer, of_concept = (
        _METHODS[method].options.model_json_schema()["properties"] for method in (BY_DEFAULT, OF_CONCEPTS)
    )
    return [named, by_layer, of_concept, *map(_linked_schema, (TO_LAYER, GROUPS_TO_LAYER))]


def _linked_schema(method: str) -> dict[str, JsonSchemaValue]:
    """The fields of the short form of a method of two layers."""
    own = _METHODS[method].options.model_json_schema()["properties"]
    upper = {"type": "object", "additionalProperties": False, "required": ["layer"]}
    ends = {"layer": own["upper"], "atoms": own["atoms"]}
    return {**{name: field for name, field in own.items() if name != "upper"}, "to": {**upper, "properties": ends}}


def _recipe_schemas() -> list[JsonSchemaValue]:
    """Each recipe by its name, with what it stands for."""
    return [{"const": name, "description": f"Short for {list(elements)}."} for name, elements in RECIPES.items()]


def _some() -> str:
    return " or ".join([*_METHODS][:2])


def _nearest(name: str) -> str:
    known = [*_METHODS, *RECIPES]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    return f"there {'is' if len(close) == 1 else 'are'} {', '.join(close)}"


class Integrity(Document):
    """How far explanations are tested themselves: one that does not hold is a sentence in place of a figure."""

    sanity: Literal["weights", "none"] = "weights"
    """`weights`: what a model with random weights shows just as well is not drawn (Adebayo et al. 2018)."""


class Explanation(Document):
    """Why the model gives these examples this number."""

    of: Name
    """A target; `versus` in it asks why one class and not the other."""
    examples: Chosen = Chosen()
    show: Annotated[list[Element], Field(min_length=1)]
    """Methods by name, with options of their own where those are needed."""

    @model_validator(mode="before")
    @classmethod
    def _recipes_written_out(cls, asked: Any) -> Any:
        if not isinstance(asked, dict) or not isinstance(asked.get("show"), list):
            return asked
        shown = [one if isinstance(one, str) else "" for one in asked["show"]]
        return {
            **asked,
            "show": [
                element for name, one in zip(shown, asked["show"], strict=True) for element in RECIPES.get(name, (one,))
            ],
        }

    @model_validator(mode="after")
    def _few_elements(self) -> Self:
        if len(self.show) > MOST_ELEMENTS:
            raise ValueError(
                f"show has {len(self.show)} elements; {MOST_ELEMENTS} are as many as anybody reads. "
                "Ask the others under another name"
            )
        return self
