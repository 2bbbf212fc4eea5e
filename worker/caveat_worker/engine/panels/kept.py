"""Answers that an earlier audit had, under a key of all that they depend on, down to the example's own numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caveat_spec.explain import Atoms
from caveat_spec.explained import Check
from caveat_worker.engine.activations.array_keys import target_content
from caveat_worker.engine.activations.requirements import Plan
from caveat_worker.engine.base.arrays import AnyArray
from caveat_worker.engine.base.store import ArrayStore, key_of
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.attributed import Check as Made
from caveat_worker.engine.onnx.session import Provider
from caveat_worker.engine.panels.figures import Found
from caveat_worker.engine.panels.planned import PlannedElement

TOLD_FROM = 1e-3
"""The share of the largest part from which it is told what no part accounts for: less is rounding."""


def answer_key(
    plan: Plan,
    target: str,
    one: PlannedElement,
    inputs: Mapping[str, AnyArray],
    usual: Sequence[AnyArray | None],
    provider: Provider,
    versions: Mapping[str, str],
    without: str = "",
) -> str:
    """The key of an element's answer at one example, beside `usual` ones that it may be compared with."""
    named = one.element.asked_set
    labelled: dict[str, Any] = {} if named is None else {"training": plan.audit.examples[named].model_dump(mode="json")}
    if one.element.beyond_concepts:
        labelled["beyond"] = {name: _concept_content(plan, name) for name in plan.audit.concepts}
        labelled["method"] = [plan.audit.method.alpha, plan.audit.method.min_examples]
    of_concept = {} if one.concept is None else {"concept": _concept_content(plan, one.concept), "without": without}
    return key_of(
        **of_concept,
        **labelled,
        explanation=[one.element.by, one.options.model_dump(mode="json")],
        model=[plan.audit.model, plan.audit.constants, plan.audit.random_labels],
        target=target_content(plan, target),
        example={name: _content(array) for name, array in inputs.items()},
        seed=plan.audit.method.seed,
        usual=[None if one is None else _content(one) for one in usual],
        by={"provider": provider, **versions},
    )


def _concept_content(plan: Plan, concept: str) -> Any:
    """All that a concept's CAV depends on, beside the model."""
    audit, method = plan.audit, plan.audit.method
    concepts = [audit.concepts[name] for name in (concept, *audit.concepts[concept].controlling_for)]
    sets = dict.fromkeys(name for one in concepts for name in (one.examples, *one.reference_sets))
    settings = (method.estimator, method.regularisation, method.folds, method.alpha)
    return [
        [one.model_dump(mode="json") for one in concepts],
        {name: audit.examples[name].model_dump(mode="json") for name in sets},
        list(settings),
    ]


def part_key(key: str, part: str) -> str:
    """The key of one array of an answer, in the form that a cache and the pieces of shards take."""
    return key_of(answer=key, part=part)


def recalled(store: ArrayStore, key: str, atoms: Atoms) -> tuple[Found, int] | None:
    """The answer that is kept under a key, with the passes that it took; None if there is none."""
    whole, said = store.get(part_key(key, "whole")), store.get(part_key(key, "said"))
    if whole is None or said is None:
        return None
    told: dict[str, Any] = json.loads(said.tobytes())
    return Found(
        whole=np.asarray(whole),
        atoms=atoms,
        checks=tuple(Check.model_validate(check) for check in told["checks"]),
        additive=told["additive"],
        spread=store.get(part_key(key, "spread")),
        removed={int(place): effect for place, effect in told["removed"]},
        pairs=store.get(part_key(key, "pairs")),
        upper=store.get(part_key(key, "upper")),
        maps=store.get(part_key(key, "maps")),
        upper_maps=store.get(part_key(key, "upper_maps")),
        directions=store.get(part_key(key, "directions")),
        upper_directions=store.get(part_key(key, "upper_directions")),
        patches=store.get(part_key(key, "patches")),
        signs=told["signs"],
        notes=tuple(told["notes"]),
        of_atoms=tuple(told["of_atoms"]),
        entries=tuple(told["entries"]),
    ), told["passes"]


def keep(store: ArrayStore, key: str, found: Found, passes: int) -> None:
    """Keeps an answer, where there is a cache."""
    told = {
        "additive": found.additive,
        "removed": list(found.removed.items()),
        "signs": found.signs,
        "checks": [check.model_dump() for check in found.checks],
        "notes": found.notes,
        "of_atoms": found.of_atoms,
        "entries": found.entries,
        "passes": passes,
    }
    arrays = ("pairs", "upper", "maps", "upper_maps", "directions", "upper_directions", "patches", "spread", "whole")
    for name in arrays:
        array = getattr(found, name)
        if array is not None:
            store.put(part_key(key, name), array)
    store.put(part_key(key, "said"), np.frombuffer(json.dumps(told).encode(), np.uint8))


def check_of(made: Made) -> Check:
    """A check as the report holds it, in which a number that is not finite is none."""
    return Check(
        code=made.code,
        value=_finite(made.value),
        bound=_finite(made.bound),
        ok=bool(made.ok),
        sentence=made.sentence,
    )


def found_in(answer: Attributed, atoms: Atoms) -> Found:
    """What a method attributed to the atoms of one example."""
    removed = zip(*(np.ravel(answer.parts.get(part, ())) for part in ("removed", "removal_effects")), strict=True)
    notes = answer.notes
    left = 0.0 if answer.rest is None else float(answer.rest[0])
    if abs(left) > TOLD_FROM * float(np.abs(answer.values[0]).max(initial=0.0)):
        notes = (*notes, f"{left:+.3g} is in none of the parts.".replace("-", "−", 1))
    return Found(
        whole=np.atleast_1d(np.asarray(answer.values[0], float)),
        atoms=atoms,
        additive=answer.total is not None,
        removed={int(place): float(effect) for place, effect in removed},
        pairs=np.asarray(answer.parts["pairs"][0], float) if "pairs" in answer.parts else None,
        upper=np.asarray(answer.parts["upper"][0]) if "pairs" in answer.parts else None,
        maps=np.asarray(answer.parts["maps"][0], float) if "maps" in answer.parts else None,
        upper_maps=np.asarray(answer.parts["upper_maps"][0], float) if "upper_maps" in answer.parts else None,
        directions=np.asarray(answer.parts["directions"][0], float) if "directions" in answer.parts else None,
        upper_directions=(
            np.asarray(answer.parts["upper_directions"][0], float) if "upper_directions" in answer.parts else None
        ),
        patches=np.asarray(answer.parts["patches"][0], float) if "patches" in answer.parts else None,
        signs="classes" if "legend_classes" in answer.parts else "target",
        checks=tuple(map(check_of, answer.checks)),
        spread=None if answer.spread is None else np.asarray(answer.spread[0], float),
        notes=notes,
        of_atoms=answer.of_atoms,
        entries=answer.entries,
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _content(array: AnyArray) -> str:
    """A digest of an array's numbers or words."""
    whole = repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + whole).hexdigest()
