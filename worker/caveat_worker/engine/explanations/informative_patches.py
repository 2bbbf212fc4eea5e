"""Most informative patches: the places of many examples that speak most for a target by themselves.

Behind a mean over positions and an affine layer the score is the mean of w·h_p + b over places p, with the same w and b
for every example (Brendel and Bethge 2019): w is the target's derivative at any one, summed over its places, and b the
score without activations. An example then takes one pass and one product. That its score is that mean is checked at
each of them, and the rest of the model has to say the same of each patch that is shown, as in `bag_of_features`. By
the examples' labels, the highest evidence of the class is told from that for it in examples of others: its errors
(figure 3 there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from caveat_spec.explanations import PATCH_ROWS, InformativePatchesOptions
from caveat_worker.engine.base.arrays import AnyArray, Float64Array, Indices
from caveat_worker.engine.base.threads import on_one_thread
from caveat_worker.engine.explanations import Shapes
from caveat_worker.engine.explanations.atoms import by_position, everywhere
from caveat_worker.engine.explanations.attributed import Attributed, Check
from caveat_worker.engine.explanations.checks import local, mean_of_places, not_flat
from caveat_worker.engine.explanations.runs import FORWARD, GRADIENT, Runs, SomeExamples, Streamed

_APART = 1e-5
"""The share of the largest evidence by which the rest of the model may say otherwise of a patch."""


def cost(options: InformativePatchesOptions, shapes: Shapes) -> int:
    """A gradient, and the rest of the model for no activations and for each patch; the set is counted apart."""
    return GRADIENT + FORWARD * (1 + PATCH_ROWS * options.count)


@on_one_thread
def informative_patches(runs: Runs, x: AnyArray, options: InformativePatchesOptions) -> Attributed:
    """The highest evidence of any place among examples of each kind [n, kinds], in the target's unit.

    `patches` has the highest of each [n, kinds, count, 4]: the example's number, its place's, the evidence, and the
    target's number for the whole example.
    """
    before, share = runs.passes, runs.sees(options.layer, x)
    near = local(share, options.layer)
    if not near.ok:
        return Attributed(np.zeros((len(x), 1)), checks=(near,), passes=runs.passes - before)
    gradient = runs.gradient(x[:1], options.layer)
    w = by_position(gradient)[0].sum(0, dtype=float)
    b = float(runs.rest(options.layer, np.zeros_like(gradient), x[:1])[0])
    there = runs.streamed(options.examples, options.layer, options.labels)
    seen = _Seen.of(there, w, b, options.count)
    again = runs.rest(options.layer, everywhere(seen.vectors, gradient.shape), x[:1])
    rows = np.stack([one.row(options.count) for one in seen.kinds])
    return Attributed(
        np.repeat(rows[None, :, 0, 2], len(x), axis=0),
        checks=(near, not_flat(gradient), seen.is_mean(there.names, options.layer), _same(seen, again, options.layer)),
        passes=runs.passes - before,
        notes=(
            f"One patch of each example, where {options.layer} says most by itself; the score is the mean of what all "
            f"its places say, which holds at each of {len(there.names)} examples. A place sees {share:.0%} of the "
            "input's longer side.",
            *_unknown(there, options),
        ),
        parts={"patches": np.repeat(rows[None], len(x), axis=0)},
    )


@dataclass(frozen=True)
class _Patches:
    """The strongest place of each of some examples."""

    examples: Indices
    """[k]"""
    places: Indices
    """[k]"""
    evidence: Float64Array
    """[k]"""
    wholes: Float64Array
    """The target's number for each example [k]."""
    vectors: AnyArray
    """The activations there [k, channels]."""

    def __getitem__(self, chosen: Indices | NDArray[np.bool_]) -> _Patches:
        return _Patches(*(getattr(self, part.name)[chosen] for part in fields(self)))

    def highest(self, count: int) -> _Patches:
        """The highest of them, ties in the order of the set."""
        return self[np.argsort(-self.evidence, kind="stable")[:count]]

    def row(self, count: int) -> Float64Array:
        """[count, 4], with -1 in place of numbers where there are fewer."""
        row = np.tile([-1.0, -1.0, 0.0, 0.0], (count, 1))
        row[: len(self.examples)] = np.stack([self.examples, self.places, self.evidence, self.wholes], axis=1)
        return row

    @classmethod
    def together(cls, several: Sequence[_Patches]) -> _Patches:
        """The places of several lists of examples as one."""
        return cls(*(np.concatenate([getattr(one, part.name) for one in several]) for part in fields(cls)))


@dataclass(frozen=True)
class _Seen:
    """What passing over a set has found."""

    kinds: Sequence[_Patches]
    """The highest of each kind of example."""
    means: Float64Array
    """Of each example's evidence over all places, and over its tokens alone [2, n]."""
    sizes: Float64Array
    """The largest size of each example's evidence [n]."""
    scores: Float64Array
    """[n]"""

    @property
    def vectors(self) -> AnyArray:
        """The activations of all patches that are shown [k, channels]."""
        return np.concatenate([one.vectors for one in self.kinds])

    @classmethod
    def of(cls, there: Streamed, w: Float64Array, b: float, count: int) -> _Seen:
        """Passes over a set with evidence w·h + b, and keeps of each kind as many patches as are shown."""
        kept: list[list[_Patches]] = [[] for _ in there.kinds]
        means, sizes, done = [], [], 0
        scores = []
        for some in there.batches:
            strongest, mean, size = _strongest(some, w, b, done)
            for kind, found in zip(there.kinds, kept, strict=True):
                found[:] = [_Patches.together([*found, strongest[kind[strongest.examples]]]).highest(count)]
            means.append(mean)
            sizes.append(size)
            scores.append(some.numbers)
            done += len(some.numbers)
        kinds = [found[0] for found in kept]
        return cls(kinds, np.concatenate(means, axis=1), np.concatenate(sizes), np.concatenate(scores))

    def is_mean(self, names: Sequence[str], layer: str) -> Check:
        """Whether every score is the mean over all places, or over tokens where the model leaves padding out."""
        return min((mean_of_places(one, self.scores, self.sizes, layer, names) for one in self.means), key=_missed)


def _missed(check: Check) -> float:
    return check.value


def _strongest(some: SomeExamples, w: Float64Array, b: float, done: int) -> tuple[_Patches, Float64Array, Float64Array]:
    """The place of each example with the highest evidence; the means of evidence [2, k], and its largest size [k]."""
    evidence = some.activations.astype(float) @ w + b
    inside = np.ones(evidence.shape, bool)
    if some.tokens is not None:
        inside = np.arange(evidence.shape[1]) < np.maximum(some.tokens, 1)[:, None]
    places, rows = np.where(inside, evidence, -np.inf).argmax(1), np.arange(len(evidence))
    found = _Patches(done + rows, places, evidence[rows, places], some.numbers, some.activations[rows, places])
    means = np.stack([evidence.mean(1), (evidence * inside).sum(1) / inside.sum(1)])
    return found, means, np.abs(evidence).max(1)


def _same(seen: _Seen, again: Float64Array, layer: str) -> Check:
    """Whether the rest of the model says of each patch that is shown what it was computed to say."""
    evidence = np.concatenate([one.evidence for one in seen.kinds])
    off = float(np.abs(again - evidence).max() / max(float(np.abs(evidence).max()), np.finfo(float).tiny))
    ok = bool(off <= _APART)
    return Check(
        "same",
        off,
        _APART,
        ok,
        f"The rest of the model says the same of the {len(evidence)} patches, each put at every place."
        if ok
        else f"The rest of the model says otherwise of the patches than one derivative does, by {off:.2g} of the "
        f"largest: behind {layer} is more than a mean over positions and an affine layer. Use bag_of_features.",
    )


def _unknown(there: Streamed, options: InformativePatchesOptions) -> tuple[str, ...]:
    """What the labels do not tell, and how to have it told."""
    if options.labels is None:
        return (
            "Which of them are errors is not known without labels: give `labels`, a column of a table, or `folder` for "
            "pictures in a folder for each class.",
        )
    known = int(sum(kind.sum() for kind in there.kinds))
    told = []
    if len(there.kinds) < PATCH_ROWS:
        told.append(f"All {known} labels are the target's class: give examples of other classes, and its errors show.")
    if known < len(there.names):
        told.append(f"{len(there.names) - known} of {len(there.names)} examples have no label and are in no row.")
    return tuple(told)
