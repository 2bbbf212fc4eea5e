"""Evidence by place: bags of local features, and the patches of a set that say most."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from bench.measure import timed
from bench.rows import Row, at_least, at_most
from caveat_worker.engine.explanations import explanation
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.panels.choice import Source
from caveat_worker.engine.panels.informative import StreamedSets

SEEDS = range(10)


def bag() -> Iterator[Row]:
    """The mean of the evidence against the score, for a model that is a bag of local features."""
    from tests.explanations.glyphs import pictures as glyphs
    from tests.explanations.test_bag_of_features import bag as asked
    from tests.explanations.test_bag_of_features import mean_of_filters

    model, seen, _ = mean_of_filters()
    x, _, _ = glyphs(12, seed=341)
    off, share = 0.0, 0.0
    for row in range(len(x)):
        runs, picture = model.around({"x": x[[row]]})
        score = float(runs.scores(picture)[0])
        missed = abs(float(asked(runs, picture, seen).values.sum()) - score)
        off, share = max(off, missed), max(share, missed / abs(score))
    claim = "mean of the evidence, off from the score, as a share of it; the worst of 12 pictures"
    yield at_most("`bag_of_features`", claim, 1e-5, share)
    claim = "the same in the score's unit; scores are float32, from -6 to 13"
    yield Row("`bag_of_features`", claim, "", f"{off:.1e}", None)


_PATCHES, _WRONG, _ON_GLYPH = 6, 5, 10
"""Patches in a row, wrong labels, and pixels of the 25 of a patch from which it lies on a glyph; 1 place in 16 does."""


def informative_patches() -> Iterator[Row]:
    """Planted glyphs and planted wrong labels, the mean at every example, and the evidence of the other method."""
    from tests.explanations.glyphs import SIDE
    from tests.explanations.glyphs import pictures as glyphs
    from tests.explanations.test_bag_of_features import bag as asked
    from tests.explanations.test_bag_of_features import mean_of_filters

    one = explanation("informative_patches")
    first, on_glyph, wrong_first, means, apart = [], [], [], [], []
    spent: tuple[list[float], list[float]] = ([], [])
    for seed in SEEDS:
        model, seen, _ = mean_of_filters(seed)
        x, there, y = glyphs(60, seed=500 + seed)
        wrong = np.random.default_rng(seed).choice(np.flatnonzero(y), _WRONG, replace=False)
        labels = np.where(np.isin(np.arange(len(x)), wrong), 0, y)
        source = _set_of(x, labels)

        def shown(model: OpenModel = model, seen: str = seen, x: Any = x, source: Source = source) -> Attributed:
            runs, example = model.around({"x": x[:1]})
            runs.streamed_sets = StreamedSets(source)
            options = one.entry.options(layer=seen, examples="all", labels="label", count=_PATCHES)
            found: Attributed = one.run(runs, example, options)
            return found

        def each(model: OpenModel = model, seen: str = seen, x: Any = x) -> Any:
            """The evidence of every place of every example by the other method."""
            around = (model.around({"x": x[[row]]}) for row in range(len(x)))
            return np.stack([asked(runs, example, seen).values.ravel() for runs, example in around])

        shown(), each()
        found = timed(spent[0], shown)
        evidence = timed(spent[1], each) * (SIDE - 4) ** 2
        if found.withheld is not None:
            raise ValueError(found.withheld)
        own, others = found.parts["patches"][0]
        on = [_on_glyph(there[int(row)], *divmod(int(place), SIDE - 4)) >= _ON_GLYPH for row, place, *_ in own]
        first.append(on[0])
        on_glyph.append(mean(on))
        wrong_first.append(sum(int(row) in wrong for row, *_ in others[:_WRONG]))
        means.append(next(check.value for check in found.checks if check.code == "mean"))
        theirs = evidence.max(1)[[int(row) for row, *_ in (*own, *others)]]
        ours = np.array([value for _, _, value, _ in (*own, *others)])
        apart.append(float(np.abs(theirs - ours).max() / np.abs(evidence).max()))
    block, planted = (
        "`informative_patches`",
        "of 60 pictures, half with a glyph that a model of 5 x 5 fields was fitted to",
    )
    yield at_least(block, f"{planted}: the first patch lies on it, share of ten seeds", 1.0, mean(first), "{:.2f}")
    claim = f"{planted}: patches of its class on it, share of {_PATCHES}, the mean of ten seeds; the lowest"
    yield Row(block, claim, "", f"{mean(on_glyph):.2f}; {min(on_glyph):.2f}", None)
    claim = f"{_WRONG} of those labels wrong: how many are the first {_WRONG} of other classes, the fewest of ten seeds"
    yield at_least(block, claim, _WRONG, min(wrong_first), "{:.0f}")
    claim = "mean of the evidence, off from the score, as a share of it or of the evidence; the worst of 600 pictures"
    yield at_most(block, claim, 1e-5, max(means))
    claim = "evidence of 120 patches, off from that of `bag_of_features`, as a share of the largest; the worst"
    yield at_most(block, claim, 1e-5, max(apart))
    claim = "CPU of `bag_of_features` at each of 60 pictures of 400 places : ours of all"
    yield Row(block, claim, "", f"{median(spent[1]) / median(spent[0]):.0f}", None)
    yield _misplaced_digits(block)


def _on_glyph(there: Any, down: int, across: int) -> int:
    """How many pixels of a patch of 5 x 5 are a glyph's."""
    return int(there[down : down + 5, across : across + 5].sum())


def _set_of(x: Any, labels: Any) -> Source:
    """Pictures in memory, with their labels in a column, as panels take an example set."""
    names = {"all": [str(row) for row in range(len(x))]}
    return Source(names, names, lambda _, rows: {"x": x[[*rows]]}, lambda *_: {"label": labels}, lambda *_: {})


def _misplaced_digits(block: str) -> Row:
    """Sevens of real digits in the folder of the ones: among the patches that mislead, and by their whole."""
    from tests.audits.test_informative_patches import WRONG, asked, digits_in, drawn, folders

    with tempfile.TemporaryDirectory() as folder:
        bench = digits_in(Path(folder))
        misplaced = folders(Path(folder) / "digits.zip")
        asked(bench)["count"] = 8
        icons = drawn(bench).icons
    assert icons is not None, "labelled, and local"
    others = icons.spectra[1].icons
    among = [icon.example in misplaced for icon in others]
    by_whole = [icon.example in misplaced for icon in sorted(others, key=lambda icon: -(icon.whole or 0.0))]
    claim = (
        f"scikit-learn's digits, {WRONG} sevens labelled 1 among 200: of the first eight patches of other classes; of "
        "those, first by what the model gives the whole"
    )
    return Row(block, claim, "", f"{sum(among)}; {sum(by_whole[: sum(among)])}", None)
