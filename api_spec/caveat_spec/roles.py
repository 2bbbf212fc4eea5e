"""Which example sets an audit needs enough examples of, and which of them a sequential audit always has whole."""

from __future__ import annotations

from dataclasses import dataclass

from caveat_spec.audit import Audit


@dataclass(frozen=True)
class ExampleRole:
    """A part of an audit that `method.min_examples` holds for, and the sets whose examples it has together."""

    pointer: str
    name: str
    sets: list[str]


def example_roles(audit: Audit) -> list[ExampleRole]:
    """Every concept, its reference set, and every target that a concept is tested on."""
    if not audit.concepts:
        return []
    roles = []
    for name, concept in audit.concepts.items():
        roles.append(ExampleRole(f"/concepts/{name}/examples", f"Concept '{name}'", [concept.examples]))
        reference = f"The reference set of concept '{name}'"
        roles.append(ExampleRole(f"/concepts/{name}/against", reference, concept.reference_sets))
    for name, target in audit.targets.items() if audit.test_concepts else ():
        roles.append(ExampleRole(f"/targets/{name}/examples", f"Target '{name}'", [target.examples]))
    return roles


def always_whole(audit: Audit) -> set[str]:
    """The sets that are whole at every look: those of groups, and what their examples pair with."""
    sets = {group.examples for group in audit.groups.values()}
    return sets | {base for name in sets if (base := audit.examples[name].pairs_with) is not None}
