"""How explanations are divided into shards: elements at some of their examples, in parts of about as many passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.panels.planned import PlannedElement, PlannedExplanation


@dataclass(frozen=True)
class Part:
    """An element at consecutive panels of its explanation."""

    explanation: str
    element: int
    """Its place in `show`."""
    panels: range


def divide_explanations(
    model: Model, planned: Sequence[PlannedExplanation], *, batches: int, most: int
) -> list[list[Part]]:
    """All elements at all panels, in at most so many parts of about so many batches of passes each.

    An explanation whose elements take less than choosing its examples does, which every part repeats, stays whole.
    """
    units = [unit for one in planned if one.passes > 2 * one.to_choose for unit in _units(one)]
    if not units:
        return []
    batch = OpenModel(model, planned[0].target).batch(gradient=True)
    each = max(batches * batch, sum(price for _, price in units) / most)
    parts: list[list[Part]] = [[]]
    done = 0.0
    for unit, price in units:
        if done >= each:
            parts.append([])
            done = 0.0
        parts[-1].append(unit)
        done += price
    return [list(_joined(part)) for part in parts]


def _units(one: PlannedExplanation) -> Iterator[tuple[Part, int]]:
    """Each element at each panel, with its passes; the checks against other models are made at the first."""
    for number, element in enumerate(one.elements):
        for panel in range(one.pictures):
            yield Part(one.name, number, range(panel, panel + 1)), _price(element, first=panel == 0)


def _price(element: PlannedElement, *, first: bool) -> int:
    checks = element.held_against * (element.cost + element.to_fit) if first else 0
    orders = element.to_order if first or element.own_order else 0
    return element.cost + checks + orders


def _joined(units: Sequence[Part]) -> Iterator[Part]:
    """Neighbouring panels of an element as one part."""
    held: Part | None = None
    for unit in units:
        if held is not None and (held.explanation, held.element) == (unit.explanation, unit.element):
            held = Part(held.explanation, held.element, range(held.panels.start, unit.panels.stop))
            continue
        if held is not None:
            yield held
        held = unit
    if held is not None:
        yield held
