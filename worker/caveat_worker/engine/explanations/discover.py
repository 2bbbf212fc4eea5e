"""Discovery as an element: the directions of a layer that hold on the half of a set that did not choose them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from caveat_spec.explanations import DiscoverOptions
from caveat_worker.engine.base.arrays import AnyArray, Indices
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.attributed import Attributed, Check
from caveat_worker.engine.explanations.discovery import Discovery, Proposal, discovery
from caveat_worker.engine.explanations.runs import FORWARD, Examined, Runs


def cost(options: DiscoverOptions, shapes: Shapes) -> int:
    """None for the example that is shown; the set and the concepts' examples are counted apart."""
    return FORWARD


def discover(runs: Runs, x: AnyArray, options: DiscoverOptions) -> Attributed:
    """The effect of each proposal on the target's number [n, k], the largest first, in its standard deviations."""
    before = runs.passes
    examined = runs.examined(options.examples, options.layer, options.labels, options.known_at)
    found = discovery(examined, count=options.proposals, margin=options.margin)
    kept = found.proposed
    effects = np.array([one.effect for one in kept] or [0.0])
    errors = np.array([one.error for one in kept] or [0.0])
    directions = np.stack([one.direction for one in kept] or [np.zeros(examined.activations.shape[-1])])
    return Attributed(
        np.repeat(effects[None], len(x), axis=0),
        spread=np.repeat(errors[None], len(x), axis=0),
        checks=(_any(found, examined, options),),
        passes=runs.passes - before,
        notes=(_how(found, examined, options), *_mostly(found), *_said(kept, examined, options)),
        parts={"directions": np.repeat(directions[None], len(x), axis=0)},
    )


def _any(found: Discovery, examined: Examined, options: DiscoverOptions) -> Check:
    count, tested = len(found.proposed), len(found.proposals)
    ok = count > 0
    of = f"{tested} directions of {options.layer} tested on {len(found.test)} examples of {options.examples}"
    beyond = f"moves the target by more than {options.margin:g} sd beyond {_beyond(examined, options)}"
    sentence = (
        f"Of {of}, {count} {'does' if count == 1 else 'do'}: each {beyond}."
        if ok
        else f"Nothing is proposed: none of {of} {beyond}, at a false discovery rate of {found.alpha:g}. Smaller "
        "effects, and those that no direction of this layer tells, are not ruled out."
    )
    return Check("discovery", float(count), 1.0, ok, sentence)


def _beyond(examined: Examined, options: DiscoverOptions) -> str:
    known = [] if options.labels is None else [f"the labels by {options.labels}"]
    if examined.named:
        known.append(f"the concepts {', '.join(examined.named)} as scored at {options.known_at}")
    return " and ".join(known) or "nothing that is known, since neither labels nor concepts are given"


def _how(found: Discovery, examined: Examined, options: DiscoverOptions) -> str:
    return (
        f"Found in {len(found.find)} examples of {options.examples} and tested in {len(found.test)} others, divided by "
        f"their content and seed {examined.seed}. An effect is the change with one standard deviation of a direction, "
        f"beyond {_beyond(examined, options)}; p is for one of {options.margin:g} sd or less, and adjusted for "
        f"{len(found.proposals)} directions (Benjamini and Hochberg). It is an association, which `caveat edit` or an "
        "audit of the adopted concept can test by intervention."
    )


def _mostly(found: Discovery) -> tuple[str, ...]:
    listed = ", ".join(f"mostly {name} (R² {share:.2f})" for name, share in found.mostly.items())
    return (f"Not tested, since a named concept explains them: directions that are {listed}.",) if listed else ()


def _said(kept: Sequence[Proposal], examined: Examined, options: DiscoverOptions) -> tuple[str, ...]:
    """Each proposal's effect, and an audit's entries with which it becomes a concept."""
    told = []
    for number, one in enumerate(kept, 1):
        low, high = one.interval
        own = f"proposal_{number}"
        sets = ", ".join(
            f"{name}: {{of: {options.examples}, only: [{_listed(rows, examined)}]}}"
            for name, rows in ((own, one.high), (f"{own}_low", one.low))
        )
        told.append(
            f"Proposal {number}{_strongest(one, examined)}: {one.effect:+.2f} sd ({low:+.2f} to {high:+.2f}), adjusted "
            f"p = {one.adjusted:.2g}. To adopt it, audit other examples with "
            f"`examples: {{{sets}}}` and `concepts: {{{own}: {{examples: {own}, against: {own}_low}}}}`."
        )
    return tuple(told)


def _strongest(one: Proposal, examined: Examined) -> str:
    """The column that a direction is, or that it mostly is."""
    if not examined.columns:
        return ""
    most = int(np.abs(one.direction).argmax())
    return f", {'mostly ' if abs(one.direction[most]) < 1 - 1e-9 else ''}column {examined.columns[most]}"


def _listed(rows: Indices, examined: Examined) -> str:
    return ", ".join(json.dumps(examined.names[row], ensure_ascii=False) for row in rows)
