"""Discovery as an element: the directions of a layer that hold on the half of a set that did not choose them."""

from __future__ import annotations

import json

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
    """The effect of each proposal on the target's number [n, k], in its standard deviations.

    Those come first of which removal takes most.
    """
    before = runs.passes
    examined = runs.examined(options.examples, options.layer, options.labels, options.known_at)
    found = discovery(examined, count=options.proposals, margin=options.margin)
    kept = found.proposed
    known = (_how(found, examined, options), *_open(examined, options), *_mostly(found))
    effects = np.array([one.effect for one in kept] or [0.0])
    errors = np.array([one.error for one in kept] or [0.0])
    directions = np.stack([one.direction for one in kept] or [np.zeros(examined.activations.shape[-1])])
    return Attributed(
        np.repeat(effects[None], len(x), axis=0),
        spread=np.repeat(errors[None], len(x), axis=0),
        checks=(_any(found, examined, options),),
        passes=runs.passes - before,
        notes=known,
        of_atoms=tuple(_said(one, examined, options) for one in kept),
        entries=tuple(_adopting(number, one, examined, options) for number, one in enumerate(kept, 1)),
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
        f"{len(found.proposals)} directions (Benjamini and Hochberg). It is an association: what goes with a direction "
        "has it too. Beside it stands how much of it is gone when every place of the layer gets, along that direction, "
        "what is usual in examples that have little of it."
    )


def _open(examined: Examined, options: DiscoverOptions) -> tuple[str, ...]:
    """What is not known of the examples, so that proposals may be just that."""
    told = []
    if options.labels is None:
        told.append(
            "No labels are given, so that what makes up the class is proposed as well: name a column, or `folder`, in "
            "`labels`."
        )
    if not examined.named:
        told.append(
            "No concept is named, so that what the target should lean on is proposed as well, as far as it varies "
            f"among examples of {'one label' if options.labels else 'the set'}. The false discovery rate counts "
            "directions on which the target does not lean; which of the others are shortcuts, only their examples tell."
        )
    for concept, share in examined.unscored.items():
        told.append(
            f"{concept} cannot be scored at {options.known_at}: {share:.0%} of held-out examples are on their side, no "
            "more than by chance. It may be proposed again; name a layer in `known_at` that tells it."
        )
    return tuple(told)


def _mostly(found: Discovery) -> tuple[str, ...]:
    listed = ", ".join(f"mostly {name} (R² {share:.2f})" for name, share in found.mostly.items())
    return (f"Not tested, since a named concept explains them: directions that are {listed}.",) if listed else ()


def _said(one: Proposal, examined: Examined, options: DiscoverOptions) -> str:
    """A proposal's effect, what removing it does, and whether its examples make a concept."""
    low, high = one.interval
    effect = f"{one.effect:+.2f} sd ({low:+.2f} to {high:+.2f}), adjusted p = {one.adjusted:.2g}."
    few = (
        f" To adopt it takes {examined.adopted} examples, of which the set has {len(one.high)}: add some like them."
        if len(one.high) < examined.adopted
        else ""
    )
    return f"{_strongest(one, examined)}{effect} {_removed(one, examined, options)}{few}"


def _adopting(number: int, one: Proposal, examined: Examined, options: DiscoverOptions) -> str:
    """The entries of an audit file with which a proposal becomes a concept."""
    own = f"proposal_{number}"
    sets = ", ".join(
        f"{name}: {{of: {options.examples}, only: [{_listed(rows, examined)}]}}"
        for name, rows in ((own, one.high), (f"{own}_low", one.low))
    )
    return f"examples: {{{sets}}}\nconcepts: {{{own}: {{examples: {own}, against: {own}_low}}}}"


def _removed(one: Proposal, examined: Examined, options: DiscoverOptions) -> str:
    """What an intervention finds beside an association."""
    of = one.removal
    if of is None:
        return "It was not removed, since the inputs are no fractions, or the model gives no finite number without it."
    low, high = of.interval
    sign = 1 if one.effect > 0 else -1
    along = sorted((sign * low, sign * high))
    size = f"{of.effect:+.2f} sd ({low:+.2f} to {high:+.2f})"
    if along[0] > options.margin:
        return f"Removed at {options.layer}, {size} of it is gone: the model itself uses this direction."
    if along[1] < options.margin:
        uses = (
            "the model hardly uses it itself, but something that goes with it."
            if examined.columns
            else "the model uses it along other directions of the layer as well, or something that goes with it. Adopt "
            "it to tell."
        )
        return f"Removed at {options.layer}, {size} of it is gone, less than the margin: {uses}"
    return f"Removed at {options.layer}, {size} of it is gone: whether that exceeds the margin is open."


def _strongest(one: Proposal, examined: Examined) -> str:
    """The column that a direction is, or that it mostly is."""
    if not examined.columns:
        return ""
    most = int(np.abs(one.direction).argmax())
    return f"{'Mostly column' if abs(one.direction[most]) < 1 - 1e-9 else 'Column'} {examined.columns[most]}: "


def _listed(rows: Indices, examined: Examined) -> str:
    return ", ".join(json.dumps(examined.names[row], ensure_ascii=False) for row in rows)
