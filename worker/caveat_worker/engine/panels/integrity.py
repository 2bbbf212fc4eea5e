"""Whether what an element shows is about this model: held against models whose weights or labels are random.

Both checks are made at one example of an element, and stand under the figures of all of them (Adebayo et al. 2018).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from caveat_spec.explained import Check
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.redrawn import operators_with_weights
from caveat_worker.engine.base.arrays import AnyArray
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.base.store import ArrayStore
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.model_runs import ModelRuns, OpenModel
from caveat_worker.engine.explanations.sanity import sanity_of_labels, sanity_of_weights
from caveat_worker.engine.panels.kept import check_of, part_key
from caveat_worker.engine.panels.planned import PlannedElement

FEWEST = 16
"""Parts of an example from which the order of their values says whether two maps are alike."""

ALIKE = 0.5
"""The rank correlation up to which two maps of one example are not alike, whatever redrawn models come to."""

FEW = 80
"""Passes up to which an explanation of a redrawn model takes less time than a session of its own would save."""

WHERE = "This was checked at the first example only."
"""Said after each check, because it stands under the figures of all examples."""


def integrity(
    one: PlannedElement,
    opened: OpenModel,
    shuffled: Model | None,
    sanity: Literal["weights", "none"],
    example: Mapping[str, AnyArray],
    settle: Callable[[ModelRuns], None],
    seed: int,
) -> tuple[Check, ...]:
    """An element's checks against redrawn weights, unless `sanity` is `none`, and, where there is such a model, against
    random labels; no checks of a model without weights to redraw, such as one of trees. `settle` gives runs what they
    know beside the model.
    """

    def run(runs: ModelRuns, x: AnyArray) -> Attributed:
        settle(runs)
        return one.way.run(runs, x, one.options)

    if operators_with_weights(opened.model) == 0:
        return ()
    checks = []
    few = one.concept is None and one.way.cost(one.options, one.shapes) <= FEW
    if sanity == "weights":
        checks.append(sanity_of_weights(run, opened, [example], seed=seed, few=few))  # type: ignore[arg-type]
    if shuffled is not None:
        other = opened.of(shuffled)
        checks.append(sanity_of_labels(run, opened, other, [example], seed=seed, few=few))  # type: ignore[arg-type]
    return tuple(_at_one_example(check_of(one)) for one in checks if np.isfinite(one.value))


def _at_one_example(check: Check) -> Check:
    """The check with the doubt that one example leaves: maps that agree by less than half are not alike."""
    if not check.ok and check.value is not None and check.value <= ALIKE:
        changes = "The map changes when weights or labels are random"
        sentence = f"{changes} (rank correlation {check.value:.2f}, under {ALIKE})."
        check = check.model_copy(update={"ok": True, "bound": ALIKE, "sentence": sentence})
    return check.model_copy(update={"sentence": f"{check.sentence} {WHERE}"})


def recalled_checks(store: ArrayStore, key: str) -> tuple[Check, ...] | None:
    """The checks that an earlier audit made under this key; None if there are none."""
    said = store.get(part_key(key, "integrity"))
    return None if said is None else tuple(Check.model_validate(one) for one in json.loads(said.tobytes()))


def keep_checks(store: ArrayStore, key: str, checks: tuple[Check, ...]) -> None:
    """Keeps checks, where there is a cache."""
    store.put(
        part_key(key, "integrity"), np.frombuffer(json.dumps([one.model_dump() for one in checks]).encode(), np.uint8)
    )


def check_inputs(model: Model, shuffled: Model) -> None:
    """Raises InvalidInput where the model with random labels does not take what the audited one takes."""
    here, there = ([f"{one.name} {_shape(one.shape)}" for one in each.inputs] for each in (model, shuffled))
    if here != there:
        raise InvalidInput(
            "other-inputs",
            f"The model in 'random_labels' takes {', '.join(there)}; the audited one takes {', '.join(here)}.",
            "Give a model of the same architecture that was trained on shuffled labels.",
        )


def _shape(shape: tuple[int | str | None, ...]) -> str:
    return " x ".join("?" if not isinstance(size, int) else str(size) for size in shape[1:]) or "a number"
