"""Two sanity checks (Adebayo et al. 2018): an explanation must change with the model's weights, and with its labels.

How alike two maps are is their rank correlation. How alike they may be is no fixed number: maps of two models with
random weights agree as well, because they show the same example. That is the null: pairs of redrawn models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from caveat_worker.engine.autodiff.redrawn import (
    operators_with_weights,
    redrawn_weights,
    weights_of,
    with_redrawn_weights,
)
from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.explanations.attributed import Attributed, Check
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.explanations.runs import Runs

Explain = Callable[[Runs, AnyArray], Attributed]
Example = Mapping[str, AnyArray]
"""One example as the model's inputs [1, …] by name."""

MODELS = 6
"""Redrawn models, which make fifteen pairs."""
_SAME = 0.9
"""From here on, two maps are the same to a reader."""
_SHARED = 0.5
"""Models that were trained on the same examples share what these have in common, whatever the labels.

Five further draws of perceptrons and their shuffled twins come to 0.28 at most over twelve digits, by any of five
explanations, and to 0.43 at one digit. A map that is about the example alone comes to 1.
"""
_POINT = 0.975


def sanity_of_weights(
    explain: Explain, opened: OpenModel, examples: Sequence[Example], *, seed: int = 0, few: bool = False
) -> Check:
    """Whether maps are no more like those of redrawn models than the maps of two redrawn models are like each other.

    `few` says that an explanation takes few passes, so that opening a session for each redrawn model would cost more.
    """
    found = _maps(explain, [opened], examples)[0]
    redrawn = _maps(explain, _redrawn(opened, seed, few=few), examples)
    alike = [_alike(found, other) for other in redrawn]
    return _judged(
        "sanity_weights",
        _middle(alike),
        _null(redrawn),
        "This map hardly changes when the model's weights are random",
        "The map changes when the model's weights are random",
    )


def sanity_of_labels(
    explain: Explain,
    opened: OpenModel,
    shuffled: OpenModel,
    examples: Sequence[Example],
    *,
    seed: int = 0,
    few: bool = False,
) -> Check:
    """Whether maps are no more like those of a model that was trained on random labels than redrawn models' are.

    Up to 0.5 they may be, as both models were trained on the same examples. `few` is as in `sanity_of_weights`.
    """
    found, other = _maps(explain, [opened, shuffled], examples)
    return _judged(
        "sanity_labels",
        _middle([_alike(found, other)]),
        max(_null(_maps(explain, _redrawn(shuffled, seed, few=few), examples)), _SHARED),
        "This map is much the same for a model that was trained on random labels",
        "The map is another one for a model that was trained on random labels",
    )


def cascade(
    explain: Explain, opened: OpenModel, examples: Sequence[Example], *, stages: int = 8, seed: int = 0
) -> tuple[tuple[int, float], ...]:
    """How alike maps stay when weights are redrawn from the output down: (operators redrawn, rank correlation)."""
    found = _maps(explain, [opened], examples)[0]
    count = operators_with_weights(opened.model)
    steps = np.unique(np.linspace(1, count, min(stages, count)).round().astype(int))
    drawn = redrawn_weights(opened.model, seed)
    chosen = [weights_of(opened.model, last=int(last)) for last in steps]
    models = _sharing(opened, ({name: drawn[name] for name in names} for names in chosen))
    maps = _maps(explain, models, examples)
    return tuple((int(last), _middle([_alike(found, other)])) for last, other in zip(steps, maps, strict=True))


def _redrawn(opened: OpenModel, seed: int, *, few: bool = False) -> Iterable[OpenModel]:
    seeds = [seed * MODELS + number for number in range(MODELS)]
    if few and not opened.entry.embeds:  # whose embeddings may be weights themselves
        return _sharing(opened, (redrawn_weights(opened.model, one) for one in seeds))
    return (opened.of(with_redrawn_weights(opened.model, one)) for one in seeds)


def _sharing(opened: OpenModel, weights: Iterable[Mapping[str, AnyArray]]) -> Iterable[OpenModel]:
    """The model with each of several weights, in sessions that take them as inputs."""
    fed = replace(opened, fed=weights_of(opened.model), sessions={}, kept={})
    return (fed.with_weights(dict(one)) for one in weights)


def _maps(explain: Explain, models: Iterable[OpenModel], examples: Sequence[Example]) -> list[list[Float64Array]]:
    """The ranks of each example's map by each model, centred and of length 1; empty where a map is flat."""
    return [[_ranks(explain(*opened.around(one)).values) for one in examples] for opened in models]


def _ranks(values: Float64Array) -> Float64Array:
    from scipy.stats import rankdata  # takes half a second to import, which only explanations need

    if not np.ptp(values) > 0:
        return np.zeros(0)
    ranks = rankdata(values)
    centred = ranks - ranks.mean()
    return np.asarray(centred / np.sqrt(np.square(centred).sum()))


def _alike(left: Sequence[Float64Array], right: Sequence[Float64Array]) -> list[float]:
    """The rank correlation of two models' maps at each example; examples whose map is flat for one are left out."""
    return [float((a * b).sum()) for a, b in zip(left, right, strict=True) if a.size and b.size]


def _middle(alike: Sequence[Sequence[float]]) -> float:
    """The median over examples and models; 0 where every map is flat."""
    every = [one for some in alike for one in some]
    return float(np.median(every)) if every else 0.0


def _null(redrawn: Sequence[Sequence[Float64Array]]) -> float:
    """The 97.5 % point of the medians of pairs of redrawn models."""
    pairs = [_middle([_alike(left, right)]) for left, right in combinations(redrawn, 2)]
    return float(np.quantile(pairs, _POINT))


def _judged(code: str, alike: float, null: float, fails: str, holds: str) -> Check:
    ok = alike <= null and alike < _SAME
    pairs = f"rank correlation {alike:.2f}; up to {min(null, _SAME):.2f} comes from the example itself"
    return Check(code, alike, min(null, _SAME), ok, f"{holds if ok else fails} ({pairs}).")
