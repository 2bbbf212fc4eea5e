"""What an audit's `explain` comes to on this model and these examples: settled, priced, or refused, before it runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from typing import NoReturn

from pydantic import ValidationError

from caveat_spec.audit import Audit, Text
from caveat_spec.base import Document
from caveat_spec.explain import PRESENTATIONS, WITH_ICONS, Atoms, Element, Explanation, Presentation
from caveat_spec.explanations import (
    MOST_COMPONENTS,
    PATCH_ROWS,
    CompatibleGroupsOptions,
    LayerToLayerOptions,
    LinearOptions,
)
from caveat_spec.maps import LARGEST_MAPS, NUMBER_BYTES
from caveat_worker.engine.activations.requirements import Plan
from caveat_worker.engine.autodiff.by_example import shape_by_example
from caveat_worker.engine.autodiff.differentiate import find_layer, gradient_state, opened_at, vjp
from caveat_worker.engine.autodiff.layers import choose_layers
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.base.errors import InvalidInput, error_context
from caveat_worker.engine.explanations import Explanation as Way
from caveat_worker.engine.explanations import Shapes, explanation
from caveat_worker.engine.explanations.entry import Entry
from caveat_worker.engine.explanations.head import find_head
from caveat_worker.engine.explanations.layout import layout_of
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.explanations.runs import INPUT
from caveat_worker.engine.explanations.sanity import MODELS
from caveat_worker.engine.panels.concept_rows import rows_to_fit
from caveat_worker.engine.panels.maps import too_large

Names = Mapping[str, Sequence[str]]
"""Example set → the names of its examples, in order."""
ONE_SCORE = ("sigmoid", "two_sigmoids")
"""Links of targets whose single score says yes above 0, which labels can contradict."""
FEWER = ("samples", "permutations", "most", "confirm")
"""Options of which less is cheaper."""
OWN_LABEL = "own_label"
"""What influence is on where it is not on the target."""
LAYERS = ("layer", "upper", "known_at")
"""Options that name a layer."""
FEWEST_ICONS = 5
"""Examples from which there is one at each place that icons show."""
NOT_SO: Mapping[Presentation, str] = {
    "map": "a map has rows and columns of places",
    "strip": "a strip has the tokens of a text in their order",
    "flow": "ribbons go to the atoms of a later layer, which `to` names",
    "grid": "a grid has a small map for each atom of a later layer, which `to` names",
    "bars": "bars have no places, and lose where in rows and columns a part is",
    "icons": "icons show what a channel, a group or a concept inside the model looks for in other examples",
    "patches": "patches show what the places of a layer inside the model are like, each by another example",
    "colours": "colours mix three components of a layer's places, which principal_components finds",
    "table": "a table suits everything",
}
"""Why atoms are not drawn in a way that does not suit them."""
LARGER = ("stride", "window")
"""Options of which more is cheaper."""
MOST_OF_AN_OPTION = 4096


@dataclass(frozen=True)
class PlannedElement:
    """An element with its method, its options on this model, and its price."""

    element: Element
    way: Way
    options: Document
    layer: str
    """The tensor that is explained, or `input`."""
    atoms: Atoms
    presentation: Presentation
    shapes: Shapes
    held_against: int
    """How often it is run at one example to hold it against other models."""
    concept: str | None = None
    """The concept that its numbers are about, where they are about one and not about the target."""
    to_fit: int = 0
    """The examples that go through each model first: of that concept and its reference set, or of a labelled set."""
    icons: str | None = None
    """The example set that its icons are from, where it is drawn with icons."""
    to_order: int = 0
    """The examples of that set, which go through the model to be ordered."""

    @property
    def cost(self) -> int:
        """Forward passes for one example; a gradient counts as five."""
        return self.way.cost(self.options, self.shapes)

    @property
    def own_order(self) -> bool:
        """Whether the order of icons is another one for each example: CAVs and groups are."""
        return self.atoms in ("concepts", "groups", "components", "proposals") or self.presentation == "patches"

    @property
    def of_a_set(self) -> bool:
        """Whether it says the same of a set, whatever example is explained."""
        return self.atoms in ("proposals", "patches") or self.on_own_labels

    @property
    def on_own_labels(self) -> bool:
        """Whether its numbers are about the examples' own labels, and not about the target."""
        return self.element.options.get("on") == OWN_LABEL

    @property
    def kept_numbers(self) -> int:
        """Numbers of one example that a file of maps has at most, beside those that a model leaves open."""
        shape = self.shapes[self.layer]
        places = shape[1:] if len(shape) > 2 else shape[:1]
        channels = shape[:1] if len(shape) > 2 else shape[-1:]
        known = {
            "channels": channels,
            "neurons": shape,
            "concepts": (1,),
            "groups": (getattr(self.options, "count", 1), *places),
            "components": (MOST_COMPONENTS, *places),
        }
        known["examples"] = (self.to_fit,)
        known["proposals"] = (getattr(self.options, "proposals", 1),)
        known["patches"] = (PATCH_ROWS,)
        atoms = known.get(self.atoms, places)
        if isinstance(self.options, LinearOptions) and self.atoms == "channels":
            return prod(channels) * (1 + prod(places))
        if isinstance(self.options, CompatibleGroupsOptions):
            above = self.shapes[self.options.upper]
            return prod(atoms) + self.options.count * (
                1 + self.options.count + prod(above[1:] if len(above) > 2 else above[:1])
            )
        return prod(atoms) * (1 + (self.options.most if isinstance(self.options, LayerToLayerOptions) else 1))

    def cost_with(self, option: str, value: int) -> int | None:
        """The same with another value of an option; None if the option does not take it."""
        try:
            options = type(self.options).model_validate({**self.options.model_dump(), option: value})
        except ValidationError:
            return None
        return self.way.cost(options, self.shapes)


@dataclass(frozen=True)
class PlannedExplanation:
    """One entry of `explain` with everything settled but the examples that a rule will pick."""

    name: str
    asked: Explanation
    examples: str
    """The example set."""
    matches: str | None
    """The set that it pairs with."""
    target: Target
    elements: tuple[PlannedElement, ...]
    to_choose: int
    """Forward passes before it is known which examples are shown."""
    pictures: int
    """How many examples are shown at most, their matches included."""

    @property
    def passes(self) -> int:
        """Forward passes at most; a gradient counts as five."""
        return self.to_choose + self.pictures + sum(self.price(one) for one in self.elements)

    def price(self, one: PlannedElement) -> int:
        """Forward passes at most that an element takes."""
        orders = self.pictures if one.own_order else 1
        return self.times(one) * one.cost + (1 + one.held_against) * one.to_fit + orders * one.to_order

    def times(self, one: PlannedElement) -> int:
        """How often an element is run: at each example, and at the first one for each model it is held against."""
        return self.pictures + one.held_against


def plan_explanations(plan: Plan, names: Names) -> tuple[PlannedExplanation, ...]:
    """Every explanation of an audit; raises InvalidInput, pointing to the field, for what cannot be explained so."""
    planned = tuple(_planned(plan, name, asked, names) for name, asked in plan.audit.explain.items())
    _check_budget(planned, plan.audit.method.explanation_passes)
    size = NUMBER_BYTES * sum(one.pictures * each.kept_numbers for one in planned for each in one.elements)
    kept = (size if "maps" in plan.audit.keeps else 0) + (_cav_bytes(plan) if "cavs" in plan.audit.keeps else 0)
    if kept > LARGEST_MAPS:
        raise too_large(kept)
    return planned


def _cav_bytes(plan: Plan) -> int:
    """What the vectors of whole layers take; raises InvalidInput where there is no layer."""
    if not plan.layers:
        raise InvalidInput(
            "no-layer",
            "The model has no layer that a gradient reaches, and without one no concept activation vector.",
            "Leave `cavs` out of `keep`; `caveat layers` says what the model has.",
            "/keep",
        )
    whole = [layer.shape[1:] for layer in plan.layers if layer.reduce == "flatten"]
    numbers = sum(prod(size for size in shape if isinstance(size, int)) for shape in whole)
    return NUMBER_BYTES * numbers * len(plan.audit.concepts)


def _planned(plan: Plan, name: str, asked: Explanation, names: Names) -> PlannedExplanation:
    examples, pointer = plan.audit.explained_set(name), f"/explain/{name}"
    matches = plan.audit.examples[examples].pairs_with
    _check_choice(plan, asked, examples, names[examples], f"{pointer}/examples/pick")
    target = plan.targets[asked.of]
    with error_context(f"{pointer}/of"):
        opened = OpenModel(plan.model, target)
    elements = []
    for position, shown in enumerate(asked.show):
        with error_context(f"{pointer}/show/{position}"):
            elements.append(_element(plan, shown, asked.of, opened, examples, names))
    count = min(asked.examples.most, len(names[examples]))
    _check_alone(elements, count * (1 + asked.examples.pairs), pointer)
    ruled = isinstance(asked.examples.pick, str)
    return PlannedExplanation(
        name=name,
        asked=asked,
        examples=examples,
        matches=matches if asked.examples.pairs or asked.examples.pick == "most_changed" else None,
        target=target,
        elements=tuple(elements),
        to_choose=len(names[examples]) * (1 + (asked.examples.pick == "most_changed")) * ruled,
        pictures=count * (1 + asked.examples.pairs),
    )


def _check_alone(elements: Sequence[PlannedElement], pictures: int, pointer: str) -> None:
    """Raises InvalidInput where what is of a whole set would be said again at each of several examples."""
    alone = next((one.element.by for one in elements if one.of_a_set), None)
    if pictures > 1 and alone is not None:
        raise InvalidInput(
            "one-example-is-enough",
            f"{alone} says the same at each of {pictures} examples.",
            "Use `examples: {count: 1}`, without pairs, and ask other elements under another name.",
            f"{pointer}/examples",
        )


def _check_choice(plan: Plan, asked: Explanation, examples: str, names: Sequence[str], pointer: str) -> None:
    """Raises InvalidInput for a rule that the target cannot follow, and for names that the set does not have."""
    pick = asked.examples.pick
    check_examples(pick if isinstance(pick, list) else (), examples, names, pointer)
    classes = plan.resolved[asked.of].classes
    if pick == "errors" and asked.examples.label is not None and plan.resolved[asked.of].link in ONE_SCORE:
        return
    if pick == "errors" and (plan.targets[asked.of].index is None or classes is None or classes < 2):
        raise InvalidInput(
            "no-errors-of-a-number",
            f"Target '{asked.of}' is a single number, and only one class among several can lose to another.",
            "Pick by 'highest' or 'lowest'.",
            pointer,
        )


def check_examples(asked: Sequence[str], examples: str, names: Sequence[str], pointer: str | None = None) -> None:
    """Raises InvalidInput with close names for an example that a set does not have."""
    for name in asked:
        if name not in names:
            close = get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]
            raise InvalidInput(
                "unknown-example",
                f"Example set '{examples}' has no example '{name}'.",
                f"Close to it are {', '.join(repr(one) for one in close)}.",
                pointer,
            )


def _element(plan: Plan, element: Element, of: str, opened: OpenModel, examples: str, names: Names) -> PlannedElement:
    target, entry, way, concept = opened.target, opened.entry, explanation(element.by), element.concept
    settled = _settled(plan, element, target)
    layer = settled.get("layer", element.layer)
    options = way.entry.options.model_validate({**element.options, **settled})
    if way.entry.needs == "gradient":
        _check_gradient(plan.model, target, entry, layer, element.by)
    if way.entry.calculates and entry.has_texts:
        _refuse_texts(entry, element.by)
    if way.entry.rules != "vjp":
        opened.gradient_graph(INPUT, way.entry.rules)  # refuses a model that the table does not cover
    _check_classes(way, plan.resolved[of].classes)
    shapes = _shapes(plan.model, entry, {layer, settled.get("upper", layer)})
    if "training" in element.options:
        find_head(plan.model, opened.scores_at)
    if "upper" in settled:
        _check_linked(opened, layer, settled["upper"], shapes)
    if getattr(options, "at", None) == "input":
        _check_seed(plan.model, entry, layer)
        layer = INPUT
    atoms = _atoms(way, options, layer, shapes)
    _check_only(element, atoms, layer, shapes[layer])
    text, linked = isinstance(plan.audit.examples[examples], Text), "upper" in element.options
    drawn = element if layer == INPUT and atoms == "proposals" else _as_method(element, way)
    presentation = _presentation(drawn, atoms, shapes[layer], text=text, linked=linked, inside=layer != INPUT)
    with_icons = presentation in WITH_ICONS or atoms == "patches"
    icons = _icons(element, atoms, examples, presentation) if with_icons else None
    if atoms == "patches":
        _check_patches(plan, element, of)
    else:
        _check_icons(element, icons, names, presentation, examples)
    return PlannedElement(
        element,
        way,
        options,
        layer,
        atoms,
        presentation,
        shapes,
        _held_against(plan.audit) if way.entry.sanity else 0,
        concept,
        _to_fit(plan, element, names),
        icons,
        0 if icons is None or atoms == "patches" else len(names[icons]) * (1 + linked),
    )


def _to_fit(plan: Plan, element: Element, names: Names) -> int:
    """How many examples go through a model before an element says anything."""
    if element.asked_set is not None:
        known = {row for one in plan.audit.concepts if element.beyond_concepts for row in rows_to_fit(plan, names, one)}
        return len(names[element.asked_set]) * (1 + element.beyond_concepts) + len(known)
    return 0 if element.concept is None else len(rows_to_fit(plan, names, element.concept))


def _as_method(element: Element, way: Way) -> Element:
    """The element as its method is drawn, where it does not say how."""
    if element.as_ is not None or not (way.entry.presentation or element.icons is not None):
        return element
    own = way.entry.presentation or ("flow" if "upper" in element.options else "")
    asked = "icons" if element.icons is not None and own not in WITH_ICONS else own
    return element.model_copy(update={"as_": asked})


def _icons(element: Element, atoms: Atoms, examples: str, presentation: Presentation) -> str | None:
    """The example set that icons are from: the one that is named, or that the numbers are of; none for groups."""
    if presentation == "flow" and atoms == "positions":
        return None
    if element.icons is not None or atoms == "groups" or presentation == "flow":
        return element.icons
    return element.asked_set or examples


def _check_icons(element: Element, icons: str | None, names: Names, presentation: Presentation, examples: str) -> None:
    """Raises InvalidInput for a set of icons that are not drawn, or too few to be in an order or to be others."""
    if element.icons is not None and icons is None:
        raise InvalidInput(
            "icons-not-drawn",
            f"'icons' names '{element.icons}', and {element.by} of these atoms is not drawn with icons.",
            "Add `as: icons` and `atoms: channels`, or leave 'icons' out.",
        )
    if presentation == "patches" and icons is not None:
        if icons == examples and len(names[icons]) == 1:
            raise InvalidInput(
                "too-few-for-patches",
                f"Patches are from other examples than the one that is shown, and '{icons}' has no other.",
                "Name a larger set in 'icons'.",
            )
        return
    if icons is not None and len(names[icons]) < FEWEST_ICONS:
        raise InvalidInput(
            "too-few-for-icons",
            f"Icons are {FEWEST_ICONS} examples from the highest to the lowest, and '{icons}' has {len(names[icons])}.",
            "Name a larger set in 'icons'.",
        )


def _check_patches(plan: Plan, element: Element, of: str) -> None:
    """Raises InvalidInput for patches of another set than is looked through, and for labels of a single number."""
    if element.icons not in (None, element.asked_set):
        raise InvalidInput(
            "icons-not-drawn",
            f"'icons' names '{element.icons}', and patches are from '{element.asked_set}', which is looked through.",
            "Leave 'icons' out, or name that set in 'examples'.",
        )
    if (
        element.options["labels"] is not None
        and plan.targets[of].index is None
        and plan.resolved[of].link not in ONE_SCORE
    ):
        raise InvalidInput(
            "no-errors-of-a-number",
            f"Target '{of}' is a single number, and labels tell the examples of its class from others.",
            "Leave 'labels' out: the patches are then from all examples.",
        )


def _check_only(element: Element, atoms: Atoms, layer: str, shape: Sequence[int]) -> None:
    """Raises InvalidInput for numbers of atoms that a layer does not have, and where atoms have no number."""
    if not element.only:
        return
    count = {"channels": shape[0] if len(shape) > 2 else shape[-1], "neurons": prod(shape)}.get(atoms)
    if count is None:
        raise InvalidInput(
            "atoms-without-numbers",
            f"'only' names channels and neurons by their numbers, and {element.by} here has {atoms}.",
            "Leave 'only' out.",
        )
    check_numbers(element.only, atoms, count, layer)


def check_numbers(asked: Sequence[int], atoms: Atoms, count: int, layer: str) -> None:
    """Raises InvalidInput for the number of an atom that a layer does not have."""
    beyond = next((one for one in asked if one >= count), None)
    if beyond is not None:
        raise InvalidInput(
            "unknown-atom",
            f"'{layer}' has no {atoms.removesuffix('s')} {beyond}, only {count:,} of them.",
            f"Name some from 0 to {count - 1}.",
        )


def _held_against(audit: Audit) -> int:
    """How often an element is run to hold it against other models: at each redrawn one, and at those it is about."""
    weights, labels = audit.integrity.sanity == "weights", audit.random_labels is not None
    return weights * (MODELS + 1) + labels * (MODELS + 2)


def _atoms(way: Way, options: Document, layer: str, shapes: Shapes) -> Atoms:
    """What a layer is cut into: what the method is told, else places where it has some."""
    asked: Atoms | None = getattr(options, "atoms", None)
    places = len(shapes[layer]) > 1
    if way.entry.of_features:
        return "channels" if places else "neurons"
    if asked == "groups" and layer == INPUT:
        raise InvalidInput(
            "groups-of-the-input",
            "Groups are of a layer's channels, and the input has none that act together.",
            "Name a layer inside the model; `caveat layers` lists them.",
        )
    if asked == "patches" and layer == INPUT:
        raise InvalidInput(
            "patches-of-the-input",
            "Patches are what places of a layer see, and those of the input see one pixel, token or number each.",
            "Name the layer before the mean over positions; `caveat layers` lists them.",
        )
    if asked in ("positions", "channels", "groups", "components", "patches") and not places:
        raise InvalidInput(
            "no-positions",
            f"'{layer}' has no positions and no channels, only {shapes[layer][0] if shapes[layer] else 1} numbers.",
            "Ask for neurons, or name a layer with positions; `caveat layers` lists shapes.",
        )
    return asked or ("pixels" if layer == INPUT else "positions" if places else "neurons")


def _presentation(
    element: Element, atoms: Atoms, shape: Sequence[int], *, text: bool, linked: bool, inside: bool
) -> Presentation:
    """How an element is drawn: as it asks, or as suits what it shows; raises InvalidInput for what cannot be drawn."""
    flat = atoms in ("pixels", "positions") and len(shape) > 2
    suits = {"map": flat, "strip": text and not flat, "bars": not flat, "table": True}
    alone = atoms in ("channels", "concepts", "groups", "components", "proposals", "patches") or len(shape) == 1
    suits["patches"] = inside and not linked and len(shape) in (2, 3)
    suits["colours"] = len(shape) in (2, 3)
    suits |= {"flow": linked, "grid": linked, "icons": inside and alone and not linked}
    can = [one for one in PRESENTATIONS[atoms] if suits[one]]
    if element.as_ is None:
        return can[0]
    if element.as_ not in can:
        raise InvalidInput(
            "cannot-be-drawn-so",
            f"{element.by} at {atoms} is not drawn as {element.as_}: {NOT_SO[element.as_]}.",
            f"It is shown as {' or '.join(can)}.",
        )
    return element.as_


def _settled(plan: Plan, element: Element, target: Target) -> dict[str, str]:
    """The tensors that an element's options name; raises InvalidInput where `auto` finds none below the upper one."""
    asked = {name: str(element.options[name]) for name in LAYERS if name in element.options}
    settled = {name: _layer(plan, layer, target) for name, layer in asked.items()}
    if "upper" not in asked or asked["layer"] != "auto":
        return settled
    chosen = [find_layer(plan.model, layer) for layer in _audited(plan, target)]
    below = chosen[: chosen.index(settled["upper"])] if settled["upper"] in chosen else []
    if not below:
        raise InvalidInput(
            "no-layer-below",
            f"'layer: auto' is the audit's layer before '{settled['upper']}', and the audit has none there.",
            "Name both, as in {layer: block10, atoms: groups, to: {layer: block13}}; `caveat layers` lists them.",
        )
    return settled | {"layer": below[-1]}


def _audited(plan: Plan, target: Target) -> list[str]:
    """The layers of the audit from the input on: those that it names, else those that are chosen for the target."""
    named = [] if plan.audit.layers == "auto" else [choice.tensor for choice in plan.audit.layers]
    return named or [*choose_layers(plan.model, target)]


def _layer(plan: Plan, asked: str, target: Target) -> str:
    """The tensor of a layer; raises InvalidInput with close names for one that the model does not have."""
    if asked == INPUT:
        return asked
    if asked != "auto":
        return find_layer(plan.model, asked)
    return deepest(plan, target, "Explain the input, with a method that looks at outputs alone.")


def deepest(plan: Plan, target: Target, remedy: str) -> str:
    """The deepest layer of the audit; raises InvalidInput with the remedy where there is none."""
    chosen = _audited(plan, target)
    if not chosen:
        raise InvalidInput(
            "no-layer-to-explain",
            "'layer: auto' is the deepest layer of the audit, and this model has none that a gradient reaches.",
            remedy,
        )
    return find_layer(plan.model, chosen[-1])


def _check_gradient(model: Model, target: Target, entry: Entry, layer: str, by: str) -> None:
    """Raises InvalidInput where a method of derivatives meets a tensor that no gradient reaches."""
    if layer == INPUT and entry.with_gradient:
        return
    name = entry.names[0] if layer == INPUT else layer
    state = gradient_state(model, target, [name])
    if layer != INPUT and name in state and state[name] is None:
        return
    reason = state.get(name) or "No gradient passes from the target to it."
    raise InvalidInput(
        "no-gradient-to-explain",
        f"{by} needs the target's derivative at '{name}'. {reason}",
        "Use a method that looks at outputs alone, such as occlusion, or another layer: `caveat layers --all`.",
    )


def _check_linked(opened: OpenModel, layer: str, upper: str, shapes: Shapes) -> None:
    """Raises InvalidInput where an upper layer cannot be cut into atoms, or nothing of a lower layer reaches it."""
    if len(shapes[upper]) < 2:
        raise InvalidInput(
            "no-positions",
            f"'{upper}' has no positions and no channels, only {shapes[upper][0] if shapes[upper] else 1} numbers.",
            "Name an upper layer with positions; `caveat layers` lists shapes.",
        )
    try:
        opened.between(upper, opened.layers(layer)[0])
    except InvalidInput as error:
        swapped = "Swap them: the one that is taken apart comes first." if _reaches(opened, upper, layer) else ""
        raise InvalidInput(
            "layers-not-linked",
            f"Nothing that is differentiable leads from '{layer}' up to '{upper}'. {error.sentence}",
            swapped or "Name a `layer` below the `upper` one; `caveat layers` lists them by depth.",
        ) from error


def _reaches(opened: OpenModel, layer: str, upper: str) -> bool:
    """Whether anything that is differentiable leads from one layer up to another."""
    try:
        opened.between(upper, opened.layers(layer)[0])
    except InvalidInput:
        return False
    return True


def _check_classes(way: Way, classes: int | None) -> None:
    """Raises InvalidInput where a method compares more classes than there are."""
    if classes is not None and classes < way.entry.fewest_classes:
        raise InvalidInput(
            "too-few-classes",
            f"{way.entry.name} compares at least {way.entry.fewest_classes} classes, and the target's output has "
            f"{classes}.",
            "Use linear, for one class or for a pair.",
        )


def _check_seed(model: Model, entry: Entry, layer: str) -> None:
    """Raises InvalidInput where no seed at a layer can be pulled back to the input."""
    if len(entry.tensors) > 1:
        raise InvalidInput(
            "input-is-no-layer",
            "The model takes its columns one by one, so that a concept's score has no map of the whole input.",
            "Leave `at: input` out: the layer's own parts are shown then.",
        )
    vjp(opened_at(model, entry.names[0]), layer, [entry.names[0]])


def _refuse_texts(entry: Entry, by: str) -> NoReturn:
    """Raises InvalidInput where a method would calculate with columns of texts."""
    texts = [tensor.name for tensor in entry.tensors if tensor.dtype == "object"]
    raise InvalidInput(
        "texts-are-no-numbers",
        f"{by} calculates with the input's numbers, and {', '.join(map(repr, texts))} holds texts.",
        "Use shapley or occlusion, which replace a text by a typical one.",
    )


def _shapes(model: Model, entry: Entry, layers: Collection[str]) -> Shapes:
    """The shapes that a method's price depends on; a size that the model leaves open counts as one."""
    alone = len(entry.tensors) == 1
    shapes = {INPUT: _sizes(_seen(model, entry.names[0]) if alone else (None, len(entry.tensors)))}
    return shapes | {layer: shape_seen(model, layer) for layer in sorted({*layers} - {INPUT})}


def shape_seen(model: Model, layer: str) -> tuple[int, ...]:
    """The shape of a layer for one example, as explanations see it; a size that the model leaves open counts as one."""
    return _sizes(_seen(model, layer))


def _seen(model: Model, tensor: str) -> Sequence[int | str | None]:
    """A tensor's shape as explanations see it."""
    return layout_of(model, tensor).sizes(shape_by_example(model, tensor) or ())


def _sizes(shape: Sequence[int | str | None]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else 1 for size in shape[1:])


def _check_budget(planned: Sequence[PlannedExplanation], allowed: int) -> None:
    """Raises InvalidInput with the cheapest change where all explanations together take too many passes."""
    whole = sum(one.passes for one in planned)
    if whole <= allowed:
        return
    dearest = max(planned, key=lambda one: one.passes)
    worst = max(dearest.elements, key=lambda one: one.cost)
    position = dearest.elements.index(worst)
    raise InvalidInput(
        "explanations-too-dear",
        f"'explain' would take {whole:,} passes through the model, and {allowed:,} are allowed: {worst.element.by} "
        f"alone takes {dearest.price(worst):,}, {worst.cost:,} for each of {dearest.pictures} examples"
        f"{f' and {worst.held_against} times more for its checks' if worst.held_against else ''}.",
        f"{_cheaper(worst, dearest, allowed - (whole - worst.cost * dearest.times(worst)))}; or raise "
        "'method.explanation_passes'.",
        f"/explain/{dearest.name}/show/{position}",
    )


def _cheaper(one: PlannedElement, of: PlannedExplanation, left: int) -> str:
    """The smallest change of one option, else of the number of examples, that brings an element within its budget."""
    for option in (*LARGER, *FEWER):
        value = getattr(one.options, option, None)
        while (
            isinstance(value, int) and 0 < (value := value * 2 if option in LARGER else value // 2) <= MOST_OF_AN_OPTION
        ):
            cost = one.cost_with(option, value)
            if cost is not None and cost * of.times(one) <= left:
                return f"Use {option}: {value}"
    fewer = max(left // max(one.cost, 1) - one.held_against, 0) // (1 + of.asked.examples.pairs)
    return f"Use count: {fewer}" if fewer else f"Leave {one.element.by} out"
