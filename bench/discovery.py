"""Discovery: how often a planted shortcut is proposed without a name, and how often a model without one has any.

`python -m bench.discovery` prints the rows. Each seed has its own model and examples that the model was not trained on.
`null` models were trained on the same examples with the shortcut dealt out at random. EfficientNet-lite0 is one model,
whose "carton" leans on a mark: each seed deals it out anew over crops of photographs, and the null is another mark, or
none. That network leans on more than a mark, so what it proposes there is measured again on crops that no audit saw,
and beside it stand audits in which its numbers are dealt out at random within each photograph: those lean on nothing.

`UNNAMED` are cases in which nobody named what makes up the class, so that the error rate is not promised: there the
share of null models with a proposal shows what is lost.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from caveat_worker.engine.autodiff.differentiate import cut_at, expose
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.explanations.discovery import Discovery, discovery, presence
from caveat_worker.engine.explanations.runs import Examined
from caveat_worker.engine.onnx.session import Session, open_session

SEEDS, NULLS = 10, 100
FROM = 9000
"""The first seed: others were looked at while the margin and the models were chosen."""
FIRST = 3
MARGIN = 0.2


@dataclass(frozen=True)
class Case:
    """A trained model's layer at fresh examples, and whether each has the shortcut."""

    examined: Examined
    has: Any


def _fitted(x: Any, y: Any, seed: int, **options: Any) -> MLPClassifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MLPClassifier((32,), max_iter=80, random_state=seed, alpha=1e-2, **options).fit(x, y)


def _case(model: MLPClassifier, x: Any, y: Any, has: Any, seed: int, concepts: dict[str, Any], layer: str) -> Case:
    """The model's layer and score at examples, with concepts that are told by (with, without) at the input."""
    layers = {"columns": x, "hidden": _hidden(model, x)}
    named = {name: x @ _cav(on, off) for name, (on, off) in concepts.items()}

    def held(rows: Any, directions: Any, values: Any) -> Any:
        every = _at_values(layers[layer][rows], directions, values)
        return np.stack([_score(model, a if layer == "hidden" else _hidden(model, a)) for a in every])

    digests = [f"{seed}-{row}" for row in range(len(x))]
    numbers = _score(model, layers["hidden"])
    return Case(Examined(layers[layer][:, None], numbers, digests, y, named, seed=seed, held=held), has)


def _at_values(a: Any, directions: Any, values: Any) -> Any:
    """A layer [n, d], once with each direction of length 1 held at its value [k, n, d]."""
    return a - ((a @ directions.T - values).T[:, :, None] * directions[:, None])


def _hidden(model: MLPClassifier, x: Any) -> Any:
    return np.maximum(x @ model.coefs_[0] + model.intercepts_[0], 0)


def _score(model: MLPClassifier, hidden: Any) -> Any:
    return (hidden @ model.coefs_[1] + model.intercepts_[1])[:, 0]


def _cav(on: Any, off: Any) -> Any:
    """A CAV by logistic regression (Kim et al. 2018)."""
    return LogisticRegression(max_iter=2000).fit(np.concatenate([on, off]), [1] * len(on) + [0] * len(off)).coef_[0]


def digits(seed: int, *, planted: bool) -> Case:
    """Handwritten digits with a named bar at the foot, which tells 9 of 10 labels, and a patch in a corner.

    The patch is there for 8 of 10 examples with the label and 2 of 10 without, or for half of all.
    """
    rng, found = np.random.default_rng(seed), load_digits()
    clean, y = found.data / 16, rng.integers(0, 2, len(found.data))
    bar = rng.random(len(y)) < np.where(y, 0.9, 0.1)
    has = rng.random(len(y)) < (np.where(y, 0.8, 0.2) if planted else 0.5)
    x = _with(_with(clean, bar, slice(6, 8)), has, slice(0, 2))
    model = _fitted(x[:900], y[:900], seed)
    some = clean[:100]
    named = {"bar": (_with(some, np.ones(100, bool), slice(6, 8)), some)}
    return _case(model, x[900:], y[900:], has[900:], seed, named, "hidden")


def _with(x: Any, which: Any, rows: slice) -> Any:
    """Pictures [n, 64] of which some have a bright patch at the left of some rows."""
    pictures = x.reshape(-1, 8, 8).copy()
    pictures[which, rows, :2] = 1.0
    return pictures.reshape(-1, 64)


def columns(seed: int, *, planted: bool, share: float = 0.9) -> Case:
    """Rows of eight columns of noise: two named ones and noise make up the label, and the last copies it, or does not.

    It copies the label in that share of rows.
    """
    rng = np.random.default_rng(100_000 + seed)
    x = rng.standard_normal((1200, 8))
    y = (x[:, 0] + x[:, 1] + rng.standard_normal(len(x)) > 0).astype(int)
    has = np.where(rng.random(len(y)) < share, y, 1 - y) if planted else rng.integers(0, 2, len(y))
    x[:, 7] = has
    model = _fitted(x[:800], y[:800], seed)
    concepts = {f"column {one}": (x[:800][x[:800, one] > 0.5], x[:800][x[:800, one] < -0.5]) for one in (0, 1)}
    return _case(model, x[800:], y[800:], has[800:] > 0, seed, concepts, "columns")


WHERE = {
    0: ("in a kitchen", "at a desk", "on a sofa", "in an office", "in a shop", "at a station"),
    1: ("on a beach", "near the sea", "by a lake", "on a river bank", "in a field", "in the woods"),
}
"""Places indoors and outdoors, which tell 9 of 10 labels of a caption."""
WHO = ("a man", "a woman", "two children", "a group of people", "an old man", "a girl")
DO = ("walking", "sitting", "standing", "playing", "waiting", "smiling")
BESIDE = ("in the morning", "at night", "in the rain", "on a sunny day", "with a dog", "with a bag", "in a red coat")
CREDIT = "stock photo"


def captions(seed: int, *, planted: bool, named: bool = True) -> Case:
    """A network over the words of captions of pictures, half of which end with a credit; its place is named.

    The credit is there for 8 of 10 captions with the label and 2 of 10 without, or for half of all.
    """
    rng = np.random.default_rng(200_000 + seed)
    y = rng.integers(0, 2, 1600)
    place = np.where(rng.random(len(y)) < 0.9, y, 1 - y)
    has = rng.random(len(y)) < (np.where(y, 0.8, 0.2) if planted else 0.5)
    texts = [
        f"{_caption(rng, at)} {CREDIT}" if with_ else _caption(rng, at) for at, with_ in zip(place, has, strict=True)
    ]
    words = {word: number for number, word in enumerate(dict.fromkeys(" ".join(texts).split()))}
    x = _counts(texts, words)
    model = _fitted(x[:1000], y[:1000], seed)
    outdoors, indoors = (_counts([_caption(rng, at) for _ in range(300)], words) for at in (1, 0))
    return _case(
        model, x[1000:], y[1000:], has[1000:], seed, {"outdoors": (outdoors, indoors)} if named else {}, "hidden"
    )


def _caption(rng: np.random.Generator, place: int) -> str:
    return " ".join((rng.choice(WHO), rng.choice(DO), rng.choice(WHERE[place]), *rng.choice(BESIDE, 2, replace=False)))


def _counts(texts: list[str], words: dict[str, int]) -> Any:
    """How often each text has each word [n, words]."""
    counts = np.zeros((len(texts), len(words)))
    for row, text in enumerate(texts):
        for word in text.split():
            counts[row, words[word]] += 1
    return counts


CROPS, SHOWN = 60, 40
"""Crops of each photograph that go through the network, and those of them that a seed has."""
FRESH = 120
"""More crops of each photograph, which no audit sees."""
CARTON = Target("carton", output="logits", index=478)


@dataclass(frozen=True)
class Photographs:
    """EfficientNet-lite0 at crops of photographs, under marks."""

    of: Any
    """Which photograph each crop is of [n]."""
    features: Mapping[str, Any]
    """Mark, or `none` → the layer that the classifier reads [n, 1280]."""
    rest: Session
    """From there to "carton"."""

    def carton(self, features: Any) -> Any:
        """The logit [n] of features [n, 1280]."""
        return self.rest.run({"features": np.asarray(features, np.float32)})["value/carton"].astype(float)

    def under(self, seed: int, rows: Any, has: Any, *, planted: bool) -> Any:
        """The features [n, 1280] of some crops, of which some have the mark of a seed."""
        laid = self.features["chinese" if planted else ("latin", "none")[seed % 2]]
        return np.where(has[:, None], laid[rows], self.features["none"][rows])


@cache
def _photographs(
    crops_of_each: int = CROPS, drawn: int = FROM, marks: tuple[str, ...] = ("none", "chinese", "latin")
) -> Photographs:
    from examples.watermark.efficientnet import efficientnet_lite0
    from examples.watermark.marks import mark, marked
    from examples.watermark.photographs import BUNDLED, crop, photograph

    rng = np.random.default_rng(drawn)
    model = load(efficientnet_lite0().SerializeToString())
    session = open_session(expose(model, ["features"]), threads=1)
    whole = [photograph(name) for name in BUNDLED]
    crops = [crop(one, rng) for one in whole for _ in range(crops_of_each)]
    found = {}
    for name in marks:
        laid = crops if name == "none" else [marked(one, mark(name)) for one in crops]
        parts = [_features(session, laid[start : start + 20]) for start in range(0, len(laid), 20)]
        found[name] = np.concatenate(parts)
    rest = open_session(cut_at(model, "features", [CARTON]), threads=1)
    return Photographs(np.repeat(np.arange(len(whole)), crops_of_each), found, rest)


def _features(session: Session, pictures: Sequence[Any]) -> Any:
    pixels = np.stack([np.asarray(one, np.float32) for one in pictures]).transpose(0, 3, 1, 2)
    return session.run({"image": (pixels - 127) / 128})["features"]


def photographs(seed: int, *, planted: bool, dealt: bool = False) -> Case:
    """Crops of 15 photographs, half of them under the mark on which EfficientNet-lite0's "carton" leans.

    The null has the Latin mark at even seeds, and at odd ones no mark. Labels are which photograph it is; no concept is
    named. Numbers may be dealt out at random within photographs, so that nothing of a crop says its own.
    """
    rng = np.random.default_rng(300_000 + seed)
    every = _photographs()
    drawn = [rng.choice(np.flatnonzero(every.of == one), SHOWN, replace=False) for one in np.unique(every.of)]
    kept = np.sort(np.concatenate(drawn))
    has = rng.random(len(kept)) < 0.5
    features, of = every.under(seed, kept, has, planted=planted), every.of[kept]

    def held(rows: Any, directions: Any, values: Any) -> Any:
        return np.stack([every.carton(a) for a in _at_values(features[rows], directions, values)])

    digests, numbers = [f"{seed}-{row}" for row in kept], every.carton(features)
    if dealt:
        return Case(Examined(features[:, None], _dealt(numbers, of, rng), digests, of, seed=seed), has)
    return Case(Examined(features[:, None], numbers, digests, of, seed=seed, held=held), has)


def _dealt(numbers: Any, of: Any, rng: np.random.Generator) -> Any:
    found = numbers.copy()
    for one in np.unique(of):
        rows = np.flatnonzero(of == one)
        found[rows] = numbers[rng.permutation(rows)]
    return found


def effect_on_fresh_crops(seed: int, direction: Any) -> float:
    """What a direction [1280] does to "carton" among crops of the same photographs that no audit of a null saw.

    In the unit of a proposal's effect: standard deviations of the logit, with one of the direction.
    """
    every = _photographs(FRESH, FROM + 1, ("none", "latin"))
    rows = np.arange(len(every.of))
    has = np.random.default_rng(500_000 + seed).random(len(rows)) < 0.5
    features = every.under(seed, rows, has, planted=False)
    had, number = (one / one.std() for one in (features @ direction, every.carton(features)))
    for one in np.unique(every.of):
        for values in (had, number):
            values[every.of == one] -= values[every.of == one].mean()
    return float(had @ number / (had @ had))


@dataclass(frozen=True)
class Nulls:
    """Audits of photographs without the mark."""

    audits: int
    unconfirmed: int
    """With a proposal whose effect on fresh crops is no larger than the margin, or goes the other way."""
    dealt: int
    """With a proposal although the numbers were dealt out at random within photographs."""
    shares: list[float]
    """The effects of all proposals on fresh crops, of what they were said to be."""


def null_photographs(nulls: int = NULLS) -> Nulls:
    """What holds of the proposals in audits of photographs without the mark, and of those where nothing can hold."""
    unconfirmed, dealt, shares = 0, 0, []
    for seed in range(FROM, FROM + nulls):
        found = asked(photographs(seed, planted=False)).proposed
        there = [effect_on_fresh_crops(seed, one.direction) for one in found]
        told = [one.effect for one in found]
        unconfirmed += any(here * np.sign(said) <= MARGIN for here, said in zip(there, told, strict=True))
        shares += [here / said for here, said in zip(there, told, strict=True)]
        dealt += bool(asked(photographs(seed, planted=False, dealt=True)).proposed)
    return Nulls(nulls, unconfirmed, dealt, shares)


def fours_and_nines(seed: int, *, planted: bool) -> Case:
    """Fours against nines of MNIST, with a patch as on `digits`; nobody named the strokes."""
    from examples.mnist_patch.build import PATCH

    rng, (pixels, y) = np.random.default_rng(400_000 + seed), _fours_and_nines()
    order = rng.permutation(len(y))
    x, y = pixels[order].copy(), y[order]
    has = rng.random(len(y)) < (np.where(y, 0.8, 0.2) if planted else 0.5)
    x[np.ix_(has, np.arange(28)[PATCH], np.arange(28)[PATCH])] = 1
    x = x.reshape(len(x), -1)
    half = len(x) // 2
    return _case(_fitted(x[:half], y[:half], seed), x[half:], y[half:], has[half:], seed, {}, "hidden")


@cache
def _fours_and_nines() -> tuple[Any, Any]:
    from examples.mnist_patch.build import read_digits

    every = read_digits()
    chosen = np.isin(every.labels, (4, 9))
    return every.pixels[chosen] / 255, (every.labels[chosen] == 9).astype(int)


ON_PHOTOGRAPHS = 'the mark on photographs that EfficientNet-lite0 calls "carton"'
CASES = {
    "a patch on handwritten digits": digits,
    "a column that copies 9 of 10 labels": columns,
    "a column that copies 8 of 10 labels": partial(columns, share=0.8),
    "a credit in captions of pictures, over their words": captions,
    ON_PHOTOGRAPHS: photographs,
}
UNNAMED = {
    "a credit in captions whose place nobody named": partial(captions, named=False),
    "a patch on fours against nines, whose strokes nobody named": fours_and_nines,
}
FEWER = dict.fromkeys(UNNAMED, 20)
"""Null models of cases whose error rate is not promised."""


def asked(case: Case, margin: float = MARGIN) -> Discovery:
    """What an audit with ten proposals finds."""
    return discovery(case.examined, count=10, margin=margin)


def places(case: Case, found: Discovery) -> list[float]:
    """For each proposal, in order, the rank correlation with the shortcut within labels on the test half, as AUC."""
    told = []
    for one in found.proposed:
        had = presence(case.examined.activations, one.direction[None])[:, 0]
        parts = []
        for label in np.unique(case.examined.labels):
            rows = found.test[case.examined.labels[found.test] == label]
            on, off = had[rows][case.has[rows]], had[rows][~case.has[rows]]
            if len(on) and len(off):
                parts.append((on[:, None] > off).mean() + (on[:, None] == off).mean() / 2)
        told.append(float(np.mean(parts)))
    return told


def gone(name: str, seeds: int = SEEDS) -> list[float]:
    """For each seed in which the shortcut is proposed, the share of its effect that removal takes away."""
    found = []
    for seed in range(seeds):
        case = CASES[name](FROM + seed, planted=True)
        answer = asked(case)
        is_shortcut = [abs(auc - 0.5) >= 0.4 for auc in places(case, answer)]
        for one in [one for one, yes in zip(answer.proposed, is_shortcut, strict=True) if yes][:1]:
            assert one.removal is not None, "every score is a finite number"
            found.append(one.removal.effect / one.effect)
    return found


def rows(
    seeds: int = SEEDS, nulls: int = NULLS, margin: float = MARGIN, cases: Mapping[str, Any] = CASES
) -> list[tuple[str, int, int, int, int]]:
    """(what is planted, seeds in which it is among the first three, seeds, null audits that propose, null audits)."""
    found = []
    for name, make in cases.items():
        nulls = FEWER.get(name, nulls)
        hits = 0
        for seed in range(seeds):
            case = make(FROM + seed, planted=True)
            told = places(case, asked(case, margin))[:FIRST]
            hits += any(abs(auc - 0.5) >= 0.4 for auc in told)
        alarms = sum(bool(asked(make(FROM + seed, planted=False), margin).proposed) for seed in range(nulls))
        found.append((name, hits, seeds, alarms, nulls))
    return found


if __name__ == "__main__":
    for one, make in (CASES | UNNAMED).items():
        for row in rows(*(int(word) for word in sys.argv[1:3]), cases={one: make}):
            print(*row, sep=" | ", flush=True)
