"""Discovery: how often a planted shortcut is proposed without a name, and how often a model without one has any.

`python -m bench.discovery` prints the rows. Each seed has its own model, trained and written as ONNX, and examples that
the model was not trained on. `null` models were trained on the same examples with the shortcut dealt out at random.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from caveat_worker.engine.explanations.discovery import Discovery, discovery, presence
from caveat_worker.engine.explanations.runs import Examined

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
    hidden = np.maximum(x @ model.coefs_[0] + model.intercepts_[0], 0)
    numbers = (hidden @ model.coefs_[1] + model.intercepts_[1])[:, 0]
    named = {name: x @ _cav(on, off) for name, (on, off) in concepts.items()}
    layers = {"hidden": hidden[:, None], "columns": x[:, None]}
    return Case(Examined(layers[layer], numbers, [f"{seed}-{row}" for row in range(len(x))], y, named, seed=seed), has)


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


CASES = {
    "a patch on handwritten digits": digits,
    "a column that copies 9 of 10 labels": columns,
    "a column that copies 8 of 10 labels": partial(columns, share=0.8),
}


def asked(case: Case, margin: float = MARGIN) -> Discovery:
    """What an audit with ten proposals finds."""
    return discovery(case.examined, count=10, margin=margin)


def places(case: Case, found: Discovery) -> list[float]:
    """For each proposal, in order, the rank correlation with the shortcut within labels on the test half, as AUC."""
    told = []
    for one in found.proposed:
        had = presence(case.examined.activations, one.direction[None])[:, 0]
        parts = []
        for label in (0, 1):
            rows = found.test[case.examined.labels[found.test] == label]
            on, off = had[rows][case.has[rows]], had[rows][~case.has[rows]]
            parts.append((on[:, None] > off).mean() + (on[:, None] == off).mean() / 2)
        told.append(float(np.mean(parts)))
    return told


def rows(seeds: int = SEEDS, nulls: int = NULLS, margin: float = MARGIN) -> list[tuple[str, int, int, int, int]]:
    """(what is planted, seeds in which it is among the first three, seeds, null audits that propose, null audits)."""
    found = []
    for name, make in CASES.items():
        hits = 0
        for seed in range(seeds):
            case = make(FROM + seed, planted=True)
            told = places(case, asked(case, margin))[:FIRST]
            hits += any(abs(auc - 0.5) >= 0.4 for auc in told)
        alarms = sum(bool(asked(make(FROM + seed, planted=False), margin).proposed) for seed in range(nulls))
        found.append((name, hits, seeds, alarms, nulls))
    return found


if __name__ == "__main__":
    for row in rows(*(int(word) for word in sys.argv[1:3])):
        print(*row, sep=" | ")
