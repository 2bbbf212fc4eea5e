"""The examples that a concept's CAV is fitted on: the concept's, its reference set's, and those it controls for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from caveat_worker.engine.activations.requirements import Plan

Row = tuple[str, int]
"""An example set, and a position in it."""


@dataclass(frozen=True)
class ConceptRows:
    """A concept's examples against its reference set."""

    concept: tuple[Row, ...]
    reference: tuple[Row, ...]
    paired: bool
    """Whether each concept example has its match at the same place of the reference."""


def concept_rows(plan: Plan, names: Mapping[str, Sequence[str]], concept: str) -> ConceptRows:
    """The examples of a concept, as its test takes them: where the reference set holds the matches, they alone."""
    asked, pairing = plan.audit.concepts[concept], plan.pairings.get(concept)
    positive = tuple((asked.examples, position) for position in range(len(names[asked.examples])))
    if pairing is not None and asked.reference_sets == [pairing.base]:
        return ConceptRows(positive, tuple((pairing.base, position) for position in pairing.without), paired=True)
    sets = [(name, position) for name in asked.reference_sets for position in range(len(names[name]))]
    return ConceptRows(positive, tuple(sets), paired=False)


def rows_to_fit(plan: Plan, names: Mapping[str, Sequence[str]], concept: str) -> tuple[Row, ...]:
    """Every example that a CAV depends on, each once: also those of the concepts that are taken out of it."""
    concepts = [concept, *plan.audit.concepts[concept].controlling_for]
    sides = [concept_rows(plan, names, one) for one in concepts]
    return tuple(dict.fromkeys(row for one in sides for row in (*one.concept, *one.reference)))
