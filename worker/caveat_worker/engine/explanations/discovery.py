"""What else a target leans on: directions of a layer that nobody named, found on half of the examples, tested on half.

Directions are non-negative factors of the activations (Lee and Seung 1999), principal directions within labels, and
channels. How strongly an example has one is the largest part along it over positions. The null hypothesis of a test is
that, among examples of one label and at equal scores of the named concepts, the target's number changes by no more than
a margin with one standard deviation of it. It is tested on examples that had no part in choosing the direction, by
permuting residuals within labels (Freedman and Lane 1983) of a studentised slope, whose level holds asymptotically also
where variances differ (Janssen 1997; DiCiccio and Romano 2017).

What holds is an association. Beside it stands an intervention on the same examples: with the direction held at what is
usual where there is little of it, how much of the slope is gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from caveat_worker.engine.base.arrays import AnyArray, Float64Array, Indices
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations.factors import signed_factors
from caveat_worker.engine.explanations.runs import Examined
from caveat_worker.engine.statistics.correction import correct
from caveat_worker.engine.statistics.p_values import TIE

FEWEST = 20
"""Examples of each half, beyond what labels and named concepts take."""
ALIKE = 0.9
"""The correlation from which two directions are one, and the lesser is left out."""
MOSTLY = 0.5
"""The share of a direction's variance that a named concept explains, from which it is mostly that concept."""
ROWS = 4000
"""Positions that are factorised at most, drawn at random where there are more."""
_STILL = 1e-6
"""The share of a direction's standard deviation that has to be left within labels."""
_PERMUTATIONS = 1999
_CURVED = 3
"""The power up to which scores of named concepts are taken out, so that a target may saturate in them."""


@dataclass(frozen=True)
class Removal:
    """How much of a proposal's effect on the test half is gone with its direction held at what is usual without it."""

    effect: float
    """In the effect's unit: the slope of what the target loses. That of the effect where the direction does all."""
    interval: tuple[float, float]


@dataclass(frozen=True)
class Proposal:
    """A direction that was tested."""

    direction: Float64Array
    """[channels], of length 1."""
    effect: float
    """The change of the target's number, in its standard deviations, with one standard deviation of what the direction
    is beyond the named concepts, among examples of one label."""
    error: float
    """Its standard error."""
    interval: tuple[float, float]
    p: float
    """That the effect is no larger than the margin."""
    adjusted: float
    """The same, adjusted for all that were tested."""
    high: Indices
    """The examples of the half that it was found in that have most of it [m]."""
    low: Indices
    """For each of them, another of the same label that has little of it [m]."""
    removal: Removal | None = None
    """Of what is proposed; None also where the direction cannot be held."""


@dataclass(frozen=True)
class Discovery:
    """All that was tested, and what turned out to be a named concept.

    What is proposed comes first: that of which removal takes most, or, where nothing was removed, the largest effect.
    """

    proposals: tuple[Proposal, ...]
    mostly: Mapping[str, float]
    """Named concept → the largest share of a candidate's variance that it explains, where that is most of it."""
    find: Indices
    test: Indices
    alpha: float

    @property
    def proposed(self) -> tuple[Proposal, ...]:
        """Those that hold with the error rate kept over all."""
        return tuple(one for one in self.proposals if one.adjusted <= self.alpha)


def discovery(examined: Examined, *, count: int, margin: float) -> Discovery:
    """What moves the numbers by more than `margin` standard deviations beyond labels and named concepts.

    `count` directions are tested, at a false discovery rate of the examined set's alpha. Raises InvalidInput for too
    few examples, and for numbers or a layer that do not vary within labels.
    """
    seed, alpha = examined.seed, examined.alpha
    find, test = halves(examined, seed)
    known = _known(examined)
    _check(examined, known, find, test)
    scale = float(examined.numbers.std())
    rng = np.random.default_rng(seed)
    candidates = _candidates(examined, find, count, rng)
    had = presence(examined.activations, candidates)
    here = _residuals(known[find], had[find])
    varies = here.std(0) > _STILL * np.maximum(had[find].std(0), np.finfo(float).tiny)
    mostly = _mostly(examined, find, had)
    free = varies & ~np.isin(np.arange(len(candidates)), [one for several in mostly.values() for one, _ in several])
    own = _beyond(examined, had)
    wide = np.maximum(own[find].std(0), np.finfo(float).tiny)
    left = _residuals(known[find], examined.numbers[find, None])[:, 0] / scale
    leverage = _leverage(known[find])
    coefficients = [_coefficient(here[:, one] / wide[one], left, leverage) for one in np.flatnonzero(free)]
    order = np.flatnonzero(free)[np.argsort([-abs(b) / max(se, 1e-12) for b, se in coefficients], kind="stable")]
    chosen = _unlike(order, here, count)
    tested = _tested(examined, known, test, own[:, chosen], scale, margin, seed)
    adjusted = correct([p for _, _, p in tested], "benjamini_hochberg") if tested else np.zeros(0)
    proposed = [one for one, q in zip(chosen, adjusted, strict=True) if q <= alpha]
    removed = _removals(examined, known, (find, test), candidates[proposed], had[:, proposed], own[:, proposed])
    removals = dict(zip(proposed, removed, strict=True))
    proposals = []
    for one, (effect, error, p), q in zip(chosen, tested, adjusted, strict=True):
        high, low = _matched(examined, find, had[:, one], examined.adopted)
        span = _interval(effect, error, known[test], alpha)
        proposals.append(Proposal(candidates[one], effect, error, span, p, float(q), high, low, removals.get(one)))
    ranked = sorted(proposals, key=lambda one: (one.adjusted > alpha, -_weight(one)))
    shares = {name: max(share for _, share in several) for name, several in mostly.items() if several}
    return Discovery(tuple(ranked), shares, find, test, alpha)


def _weight(one: Proposal) -> float:
    return abs(one.effect if one.removal is None else one.removal.effect)


def _removals(
    examined: Examined,
    known: Float64Array,
    found_and_tested: tuple[Indices, Indices],
    directions: Float64Array,
    had: Float64Array,
    own: Float64Array,
) -> list[Removal | None]:
    """What interventions on the test half do to the effects of directions; None where one cannot be held.

    Wherever an example has more or less of a direction than is usual among those of the other half that have little of
    it, it gets what is usual. What the target's number loses by that is regressed as the number itself was. `had`
    [n, k] is the largest part of each example along each direction, and `own` what is left of that beyond concepts.
    """
    find, test = found_and_tested
    if examined.held is None or not len(directions):
        return [None] * len(directions)
    usual = [_usual(examined, find, had[:, one], direction) for one, direction in enumerate(directions)]
    here, leverage, scale = known[test], _leverage(known[test]), float(examined.numbers.std())
    removals: list[Removal | None] = []
    for one, held in enumerate(examined.held(test, directions, np.array(usual))):
        if not np.isfinite(held).all():
            removals.append(None)
            continue
        lost = (examined.numbers[test] - held) / scale
        left = _residuals(here, lost[:, None])[:, 0]
        effect, error = _coefficient(_regressor(here, own[test, one]), left, leverage)
        removals.append(Removal(effect, _interval(effect, error, here, examined.alpha)))
    return removals


def _usual(examined: Examined, find: Indices, had: Float64Array, direction: Float64Array) -> float:
    """The mean along a direction, over positions, of examples that have no more of it than most of their label."""
    labels = _labels(examined)[find]
    middle = np.array([np.median(had[find[labels == label]]) for label in labels])
    little = find[had[find] <= middle]
    return float((examined.activations[little].astype(float) @ direction).mean())


def presence(activations: AnyArray, directions: Float64Array) -> Float64Array:
    """The largest part of each example along each direction over positions [n, k]."""
    return np.stack([(one.astype(float) @ directions.T).max(0) for one in activations])


def halves(examined: Examined, seed: int) -> tuple[Indices, Indices]:
    """Two halves of different examples, by a hash of each one's digest, with every label in equal parts."""
    first = list({digest: row for row, digest in reversed(list(enumerate(examined.digests)))}.values())
    rows = np.array(sorted(first, key=lambda row: _hashed(examined.digests[row], seed)), np.intp)
    labels = _labels(examined)[rows]
    sides: tuple[list[int], list[int]] = ([], [])
    turn = 0
    for label in np.unique(labels):
        for row in rows[labels == label]:
            sides[turn % 2].append(int(row))
            turn += 1
    return np.sort(np.array(sides[0], np.intp)), np.sort(np.array(sides[1], np.intp))


def _hashed(digest: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()


def _labels(examined: Examined) -> Indices:
    return np.zeros(len(examined.numbers), np.intp) if examined.labels is None else examined.labels


def _known(examined: Examined) -> Float64Array:
    """What is taken out before anything is found or tested: labels, and named concepts with their powers [n, c]."""
    columns = [(_labels(examined)[:, None] == np.unique(_labels(examined))).astype(float)]
    for scores in examined.named.values():
        unit = (scores - scores.mean()) / (scores.std() or 1.0)
        columns.append(np.stack([unit**power for power in range(1, _CURVED + 1)], axis=1))
    return np.concatenate(columns, axis=1)


def _beyond(examined: Examined, had: Float64Array) -> Float64Array:
    """What is left of directions [n, k] beyond the named concepts."""
    others = replace(examined, labels=None)
    return _residuals(_known(others), had)


def _residuals(known: Float64Array, values: Float64Array) -> Float64Array:
    """Values [n, k] less what a linear model of what is known explains."""
    return np.asarray(values - known @ np.linalg.lstsq(known, values, rcond=None)[0])


def _check(examined: Examined, known: Float64Array, find: Indices, test: Indices) -> None:
    needed = FEWEST + known.shape[1]
    if min(len(find), len(test)) < needed:
        raise InvalidInput(
            "too-few-to-discover",
            f"There are {len(find) + len(test)} different examples, and {2 * needed} are needed: half of them to find "
            f"directions and half to test them, beside {known.shape[1]} numbers for labels and named concepts.",
            "Name a larger set, labels with fewer classes, or fewer concepts.",
        )
    for half in (find, test):
        left = _residuals(known[half], examined.numbers[half, None])
        if float(left.std()) <= 1e-9 * max(float(np.abs(examined.numbers).max()), 1e-30):
            raise InvalidInput(
                "nothing-left-to-discover",
                "The target's number does not vary beyond the labels and the named concepts.",
                "Choose a target on another scale, such as logits in place of probabilities, or other examples.",
            )
    flat = examined.activations.reshape(len(examined.activations), -1)
    if not np.isfinite(flat).all() or float(np.ptp(flat[find], axis=0).max()) == 0:
        raise InvalidInput(
            "layer-does-not-vary",
            "The layer is the same at every example, or not a finite number.",
            "Name another layer; `caveat layers` lists them.",
        )


def _candidates(examined: Examined, find: Indices, count: int, rng: np.random.Generator) -> Float64Array:
    """Directions of length 1 [k, channels]: factors, principal directions within labels, both ways, and channels."""
    a = examined.activations[find].astype(float)
    rows = a.reshape(-1, a.shape[-1])
    if len(rows) > ROWS:
        rows = rows[np.sort(rng.choice(len(rows), ROWS, replace=False))]
    mixes = signed_factors(rows, count).mixes
    strongest = a.max(1)
    labels = _labels(examined)[find]
    within = strongest - np.stack([strongest[labels == label].mean(0) for label in labels])
    principal = np.linalg.svd(within, full_matrices=False)[2][:count]
    several = a.shape[1] > 1
    both = [principal, -principal] if several else [principal]
    every = np.concatenate([mixes, *both, np.eye(a.shape[-1])])
    sizes = np.linalg.norm(every, axis=1)
    return np.asarray(every[sizes > 0] / sizes[sizes > 0, None])


def _mostly(examined: Examined, find: Indices, had: Float64Array) -> dict[str, list[tuple[int, float]]]:
    """Named concept → the candidates that are mostly that, with the share of their variance within labels."""
    labels = (_labels(examined)[find, None] == np.unique(_labels(examined))).astype(float)
    left = _residuals(labels, had[find])
    found: dict[str, list[tuple[int, float]]] = {}
    for name, scores in examined.named.items():
        score = _residuals(labels, scores[find, None])[:, 0]
        size = np.linalg.norm(left, axis=0) * np.linalg.norm(score)
        told = np.flatnonzero(size > _STILL * np.linalg.norm(had[find], axis=0) * np.linalg.norm(scores[find]))
        share = (score @ left[:, told] / size[told]) ** 2
        found[name] = [(int(told[one]), float(share[one])) for one in np.flatnonzero(share >= MOSTLY)]
    return found


def _unlike(order: Indices, here: Float64Array, count: int) -> list[int]:
    """The first directions of an order, each unlike those before it."""
    units = here / np.maximum(np.linalg.norm(here, axis=0), np.finfo(float).tiny)
    chosen: list[int] = []
    for one in order.tolist():
        if len(chosen) == count:
            break
        if not chosen or float(np.abs(units[:, chosen].T @ units[:, one]).max()) < ALIKE:
            chosen.append(one)
    return chosen


def _leverage(known: Float64Array) -> Float64Array:
    """How much each example weighs in a linear model of what is known [n]."""
    return np.asarray((np.linalg.qr(known)[0] ** 2).sum(1))


def _coefficient(z: Float64Array, y: Float64Array, leverage: Float64Array) -> tuple[float, float]:
    """The change of residuals y [n] with residuals z [n], and its robust standard error."""
    coefficient, error = _coefficients(z, y[:, None], leverage)
    return float(coefficient[0]), float(error[0])


def _coefficients(z: Float64Array, y: Float64Array, leverage: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Coefficients of several y [n, m], with standard errors by HC3 (MacKinnon and White 1985)."""
    square = float(z @ z)
    coefficient = z @ y / square
    left = (y - z[:, None] * coefficient) / np.maximum(1 - (leverage + z**2 / square), 0.05)[:, None]
    return coefficient, np.sqrt((z**2) @ left**2) / square


def _regressor(known: Float64Array, had: Float64Array) -> Float64Array:
    """What is left of a direction [n] beyond what is known, in its standard deviations."""
    return np.asarray(_residuals(known, had[:, None])[:, 0] / (had.std() or 1.0))


def _interval(effect: float, error: float, known: Float64Array, alpha: float) -> tuple[float, float]:
    """The interval of a coefficient beside those of what is known."""
    t = float(stdtrit(max(len(known) - known.shape[1] - 1, 1), 1 - alpha / 2))
    return effect - t * error, effect + t * error


def _tested(
    examined: Examined, known: Float64Array, test: Indices, had: Float64Array, scale: float, margin: float, seed: int
) -> list[tuple[float, float, float]]:
    """The effects of directions [n, k] on the test half, their errors, and p that each is no larger than the margin."""
    here, leverage = known[test], _leverage(known[test])
    y = _residuals(here, examined.numbers[test, None])[:, 0] / scale
    orders: Indices | None = None
    found = []
    for one in had[test].T:
        z = _regressor(here, one)
        if float(z.std()) <= _STILL:
            found.append((0.0, 0.0, 1.0))
            continue
        effect, error = _coefficient(z, y, leverage)
        beyond = abs(effect) - margin
        if beyond <= 0:
            found.append((effect, error, 1.0))
            continue
        if orders is None:
            orders = permutations_within(_labels(examined)[test], _PERMUTATIONS, seed)
        null = y - np.sign(effect) * margin * z
        coefficients, errors = _coefficients(z, _residuals(here, null[orders].T), leverage)
        observed = beyond / max(error, np.finfo(float).tiny)
        as_large = int((np.abs(coefficients) >= observed * errors * (1 - TIE)).sum())
        found.append((effect, error, (1 + as_large) / (_PERMUTATIONS + 1)))
    return found


def permutations_within(labels: Indices, count: int, seed: int) -> Indices:
    """Orders of rows [count, n] in which each label's rows change places among themselves."""
    rng = np.random.default_rng(seed)
    orders = np.tile(np.arange(len(labels)), (count, 1))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        orders[:, rows] = rng.permuted(np.tile(rows, (count, 1)), axis=1)
    return orders


def _matched(examined: Examined, find: Indices, had: Float64Array, count: int) -> tuple[Indices, Indices]:
    """Examples of the find half with most of a direction for their label, each with one of it that has little of it."""
    labels = _labels(examined)[find]
    above = had[find] - np.array([np.median(had[find[labels == label]]) for label in labels])
    free = [int(one) for one in np.argsort(above, kind="stable") if above[one] <= 0]
    high: list[int] = []
    low: list[int] = []
    for one in np.argsort(-above, kind="stable").tolist():
        match = next((other for other in free if labels[other] == labels[one]), None)
        if len(high) == count or above[one] <= 0:
            break
        if match is not None:
            free.remove(match)
            high.append(int(find[one]))
            low.append(int(find[match]))
    return np.array(high, np.intp), np.array(low, np.intp)
