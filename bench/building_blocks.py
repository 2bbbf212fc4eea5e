"""Writes docs/building-blocks.md: groups, bags, influence, comparison, edits, monitoring, against their truths.

python -m bench.building_blocks        everything (a minute or two; needs captum and torch, as `make explain` has)
python -m bench.building_blocks --only groups     the blocks whose name has that in it, in place of their rows

A bound that is missed is a **no** in its row. A row that fails says so, and the command ends with status 1 when the
page is written.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from bench import discovery, study
from bench.explain import conditions
from bench.measure import installed
from bench.page import table
from bench.rows import Row, at_least, at_most
from bench.visualisation import made_pictures
from caveat_worker.engine.acting.edit import ScaledDirections, edited
from caveat_worker.engine.acting.monitor import Watched, monitoring_graph, score_name, sensitivity_name
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.explanations import explanation
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.factors import dictionary, signed_factors
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.onnx.session import open_session
from caveat_worker.engine.panels.choice import Source
from caveat_worker.engine.panels.informative import StreamedSets
from caveat_worker.engine.versions.alignment import by_channel, debiased_cka, match_channels

PAGE = Path(__file__).parent.parent / "docs" / "building-blocks.md"
SEEDS = range(10)
MANY = range(40)
"""Seeds of wrong labels: of ten, all may reach a bound that a seventh of them miss."""
PLANTED = 15
"""Wrong labels among 150."""


@cache
def pictures() -> Any:
    """Eight photographs as SqueezeNet reads them [8, 3, 224, 224]."""
    from examples.watermark.photographs import BUNDLED, photograph

    every = [np.asarray(photograph(one).resize((224, 224)), np.float32) for one in list(BUNDLED)[:8]]
    return np.stack(every).transpose(0, 3, 1, 2)[:, ::-1] - np.array([104, 117, 123], np.float32).reshape(1, 3, 1, 1)


def groups() -> Iterator[Row]:
    """The effects of `groups` against scikit-learn's factors, started, scaled and multiplied out here."""
    from sklearn.decomposition import NMF

    from examples.watermark.squeezenet import squeezenet

    model = OpenModel(load(squeezenet().SerializeToString(), interacts=False), Target("t", index=0))
    runs, x = model.around({"image": np.ascontiguousarray(pictures()[:1])})
    asked = explanation("groups")
    found = asked.run(runs, x, asked.entry.options(layer="fire8", count=6))
    a, gradient = (each[0].astype(float) for each in (runs.activations(x, "fire8"), runs.gradient(x, "fire8")))
    flat = a.reshape(len(a), -1).T
    by = NMF(6, init="nndsvda", max_iter=500, random_state=0)
    u, v = by.fit_transform(flat / flat.max()) * flat.max(), by.components_
    effects = np.einsum("pk,kc,cp->k", u, v, gradient.reshape(len(a), -1))
    expected = effects[np.argsort(-np.abs(effects))]
    size = np.abs(expected).max()
    yield at_most(
        "`groups`",
        "effects of six groups of SqueezeNet's `fire8`, off from scikit-learn's",
        1e-6,
        float(np.abs(found.values[0] - expected).max() / size),
    )
    whole = float((a * gradient).sum())
    assert found.rest is not None
    yield at_most(
        "`groups`",
        "effects and what no group has, off from Σ a·∂S/∂a",
        1e-12,
        abs(float(found.values[0].sum() + found.rest[0]) - whole) / max(abs(whole), float(size)),
    )


def groups_over_examples() -> Iterator[Row]:
    """Planted groups of channels over many places, and photographs, whose groups nobody planted."""
    from examples.watermark.squeezenet import squeezenet
    from tests.explanations.test_dictionaries import cosines

    name = "`groups` over a set"
    found = [float(cosines(seed).min()) for seed in SEEDS]
    yield at_least(
        name, "cosine with six planted groups at 600 places, the lowest of six in ten seeds", 0.95, min(found)
    )
    model = OpenModel(load(squeezenet().SerializeToString()), Target("t", index=0))
    rows = []
    for picture in pictures():
        runs, x = model.around({"image": np.ascontiguousarray(picture[None])})
        rows.append(runs.activations(x, "fire8")[0].reshape(512, -1).T.astype(float))
    shared = dictionary(np.concatenate(rows[:-1]), 6).shares(rows[-1]).missed
    own = signed_factors(rows[-1], 6).missed
    claim = "SqueezeNet's `fire8`: share of a photograph that six groups of seven others miss; that its own six miss"
    yield Row(name, claim, "", f"{shared:.2f}; {own:.2f}", None)


def places() -> Iterator[Row]:
    """Components against scikit-learn's, and whether a place's patch is the same thing where it was moved to."""
    from sklearn.decomposition import PCA

    from caveat_worker.engine.explanations.principal_components import components_of
    from caveat_worker.engine.panels.patches import Cells, nearest_to
    from examples.watermark.squeezenet import squeezenet

    model = OpenModel(load(squeezenet().SerializeToString()), Target("t", index=0))
    off, shares = [], []
    for picture in pictures():
        runs, x = model.around({"image": np.ascontiguousarray(picture[None])})
        rows = runs.activations(x, "fire8")[0].reshape(512, -1).T.astype(float)
        found, peer = components_of(rows), PCA(3, svd_solver="full").fit(rows)
        signs = np.sign((found.directions * peer.components_).sum(1))[:, None]
        off.append(float(np.abs(found.directions - signs * peer.components_).max()))
        shares.append(float(found.shares.sum()))
    what = "SqueezeNet's `fire8`, eight photographs:"
    yield at_most("`principal_components`", f"{what} three components off from scikit-learn's", 1e-5, max(off))
    spread = f"{min(shares):.2f} to {max(shares):.2f}"
    yield Row("`principal_components`", f"{what} share of the variance that three have", "", spread, None)
    moved, right, cosines = np.roll(pictures(), 32, axis=3), [], []
    for number, picture in enumerate(pictures()):
        runs, x = model.around({"image": np.ascontiguousarray(picture[None])})
        a = runs.activations(x, "fire4")
        cells = Cells.of(np.linalg.norm(a[0].astype(float), axis=0), a, None, additive=False)
        values, at = nearest_to(cells)(runs.activations(np.ascontiguousarray(moved), "fire4"), None)
        inner = [k for k, place in enumerate(cells.places) if 6 <= place % 27 <= 16 and 6 <= place // 27 <= 20]
        best = values.argmax(0)
        right += [float(best[k] == number and at[number, k] == cells.places[k] + 4) for k in inner]
        cosines += [float(values[best[k], k]) for k in inner]
    what = "SqueezeNet's `fire4`, eight photographs among themselves moved by 32 pixels:"
    yield at_least("`as: patches`", f"{what} places whose patch is the same thing, share", 0.95, mean(right), "{:.3f}")
    yield Row("`as: patches`", f"{what} cosine with it, median", "", f"{median(cosines):.3f}", None)


def groups_that_fit() -> Iterator[Row]:
    """Planted groups of a layer that only the layer above tells apart, and photographs, whose groups nobody planted."""
    from examples.watermark.squeezenet import squeezenet
    from tests.explanations.test_compatible_groups import found_and_alone

    together, alone = zip(*(found_and_alone(seed) for seed in SEEDS), strict=True)
    name = "`compatible_groups`"
    claim = (
        "cosine with four planted groups of a layer that differ by what they serve above it, the lowest of ten seeds"
    )
    yield at_least(name, claim, 0.95, min(together))
    yield Row(name, "the same by factors of the layer alone, the mean", "", f"{mean(alone):.4f}", None)
    asked, model = (
        explanation("compatible_groups"),
        OpenModel(load(squeezenet().SerializeToString()), Target("t", index=0)),
    )
    options, off, widest, before = asked.entry.options(layer="fire6", upper="fire8"), [], [], []
    for picture in pictures():
        runs, x = model.around({"image": np.ascontiguousarray(picture[None])})
        found = asked.run(runs, x, options)
        flow, effects = found.parts["pairs"][0], found.values[0]
        off.append(float(np.abs(flow.sum(0) - effects).sum() / np.abs(effects).sum()))
        widest.append(float(np.abs(flow).max(0).sum() / np.abs(flow).sum()))
        (share,) = re.findall(r"by itself it is (\d+)%", found.notes[1])
        before.append(int(share) / 100)
    what = "SqueezeNet's `fire6` to `fire8`, six groups each, eight photographs:"
    yield Row(name, f"{what} effects that pass no group above, share", "", f"{max(off):.3f} at most", None)
    yield Row(
        name,
        f"{what} flow in each group's widest link, the mean; by factors of the layer alone",
        "",
        f"{mean(widest):.2f}; {mean(before):.2f}",
        None,
    )


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
        found = _timed(spent[0], shown)
        evidence = _timed(spent[1], each) * (SIDE - 4) ** 2
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


def left_out() -> Iterator[Row]:
    """Influence against what fitting again without each example does, by scikit-learn."""
    from tests.explanations.test_influence import clouds, fitted, influence, network

    every = []
    for seed in SEEDS:
        x, y = clouds(120, 3, seed=seed)
        example, whole = clouds(1, 3, seed=50 + seed)[0], fitted(x, y, 1.0)

        def number(head: Any, example: Any = example) -> float:
            scores = head.decision_function(example)[0]
            return float(scores[0] - scores[2])

        found = influence(network(whole, index=0, versus=2), example, x, y).values[0]
        rows = [np.delete(np.arange(120), row) for row in range(120)]
        truth = [number(whole) - number(fitted(x[rest], y[rest], 1.0)) for rest in rows]
        every.append(float(np.corrcoef(found, truth)[0, 1]))
    yield at_least("`influence`", "r with leaving each of 120 examples out, the lowest of ten seeds", 0.99, min(every))
    yield at_least("`influence`", "the same, the median of ten seeds", 0.99, median(every))


@dataclass(frozen=True)
class Mislabelled:
    """Three clouds of 150 points, 15 of which have a wrong label, and a head that was fitted to them."""

    x: Any
    given: Any
    wrong: Any
    head: Any
    others: Any
    truth: Any

    @classmethod
    def of(cls, seed: int) -> Mislabelled:
        from tests.explanations.test_influence import clouds, fitted

        x, y = clouds(150, 3, seed=1000 + 3 * seed, apart=2.0)
        rng = np.random.default_rng(1001 + 3 * seed)
        wrong, given = rng.choice(150, PLANTED, replace=False), y.copy()
        given[wrong] = (given[wrong] + rng.integers(1, 3, PLANTED)) % 3
        others, truth = clouds(30, 3, seed=1002 + 3 * seed, apart=2.0)
        return cls(x, given, wrong, fitted(x, given, 0.3), others, truth)

    def hits(self, suspicion: Any) -> int:
        """How many of the fifteen most suspicious examples have a wrong label."""
        return len(set(np.argsort(-suspicion)[:PLANTED].tolist()) & set(self.wrong.tolist()))

    @cached_property
    def models(self) -> Any:
        """The head behind its features, opened once for log p of each class."""
        from tests.engine.nets import Net

        net = Net(0)
        weights, bias = net.constant(self.head.coef_.T), net.constant(self.head.intercept_)
        scores = net.op("Add", net.op("MatMul", net.op("Identity", "x"), weights), bias)
        model = load(net.model(("n", self.x.shape[1]), scores), interacts=False)
        labels = range(len(self.head.classes_))
        return [OpenModel(model, Target("t", index=label, scale="log_probability")) for label in labels]

    @property
    def labelled(self) -> Any:
        """The set with its labels, which goes through the head once for all classes."""
        from tests.explanations.test_influence import labelled

        return labelled(self.x, self.given)

    def influences(self, examples: Any, classes: Any) -> Any:
        """What each example adds to log p of a class at each of others [others, examples]."""
        found, asked, sets = np.zeros((len(examples), len(self.x))), explanation("influence"), self.labelled
        for label in np.unique(classes):
            rows = classes == label
            runs, x = self.models[label].around({"x": examples[rows]})
            runs.labelled_sets = sets
            found[rows] = asked.run(runs, x, asked.entry.options(training="train", labels="y")).values
        return found

    def on_own_labels(self) -> Any:
        """What each example does for its own label, by the same option as an audit's [examples]."""
        asked, (runs, x) = explanation("influence"), self.models[0].around({"x": self.x[:1]})
        runs.labelled_sets = self.labelled
        return asked.run(runs, x, asked.entry.options(training="train", labels="y", on="own_label")).values[0]

    def slopes(self) -> tuple[Any, Any]:
        """Products of the loss's derivatives by scores, and of features, of others and examples [30, 150]."""
        off = [self.head.predict_proba(x) - np.eye(3)[y] for x, y in ((self.others, self.truth), (self.x, self.given))]
        return off[0] @ off[1].T, self.others.astype(float) @ self.x.T

    def tracin(self, folder: Path) -> tuple[Any, Any]:
        """captum's TracIn at the same head, over one checkpoint: its plain class, and the one for last layers."""
        import torch
        from captum.influence import TracInCP, TracInCPFast

        coefficients = torch.from_numpy(self.head.coef_).float(), torch.from_numpy(self.head.intercept_).float()
        linear = torch.nn.Linear(self.x.shape[1], 3)
        linear.weight.data, linear.bias.data = coefficients
        data = torch.utils.data.TensorDataset(torch.from_numpy(self.x), torch.from_numpy(self.given))
        torch.save(linear.state_dict(), folder / "head.pt")
        checkpoints, each = [str(folder / "head.pt")], torch.nn.CrossEntropyLoss(reduction="none")
        whole = torch.nn.Sequential(linear)
        load_head = lambda model, path: model[0].load_state_dict(torch.load(path)) and 1.0  # noqa: E731
        asked = {"checkpoints_load_func": load_head, "batch_size": 150}
        summed = torch.nn.CrossEntropyLoss(reduction="sum")
        return (
            TracInCP(whole, data, checkpoints, loss_fn=each, **asked),
            TracInCPFast(whole, linear, data, checkpoints, loss_fn=summed, **asked),
        )


def mislabels() -> Iterator[Row]:
    """Wrong labels by three orders, beside captum's and the best that anybody could do."""
    import torch

    from tests.explanations.test_influence import D

    torch.set_num_threads(1)
    middles = np.random.default_rng(99).standard_normal((3, D)) * 2.0
    hits: dict[str, list[int]] = {}
    spent: dict[str, list[float]] = {"ours": [], "captum": [], "fast": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in MANY:
            one = Mislabelled.of(seed)
            peer, fast = one.tracin(Path(folder))
            there = torch.from_numpy(one.others), torch.from_numpy(one.truth)
            one.influences(one.others[:3], np.arange(3))  # opens the sessions before the clock starts, as captum's are
            harm = -_timed(spent["ours"], lambda one=one: one.influences(one.others, one.truth)).sum(0)
            traced = _timed(spent["captum"], lambda peer=peer, there=there: peer.influence(there))
            quick = _timed(spent["fast"], lambda fast=fast, there=there: fast.influence(there))
            alike, features = one.slopes()
            assert np.allclose(traced, alike * (features + 1), rtol=1e-3, atol=1e-4), (
                "captum's plain class has the bias"
            )
            assert np.allclose(quick, alike * features, rtol=1e-3, atol=1e-4), "its fast class has the weights alone"
            own = one.on_own_labels()
            far = ((one.x[:, None].astype(float) - middles) ** 2).sum(2) / 2
            p = np.exp(far.min(1, keepdims=True) - far)
            best = 1 - (p / p.sum(1, keepdims=True))[np.arange(150), one.given]
            orders = {
                "harm to 30 other examples": harm,
                "its own label": own,
                "log loss": -one.head.predict_log_proba(one.x)[np.arange(150), one.given],
                "captum, harm": -traced.numpy().sum(0),
                "captum, its own label": peer.self_influence().numpy(),
                "who knows the clouds": best,
            }
            for name, order in orders.items():
                hits.setdefault(name, []).append(one.hits(order))
    claims = {
        "harm to 30 other examples": "by what it takes from the classes of 30 other examples",
        "its own label": "by what it adds to its own label's log p (Koh and Liang 2017, section 5.4)",
        "log loss": "by the head's log loss at its own label, without any influence",
        "captum, harm": "captum's TracIn, by what it takes from the classes of the same 30",
        "captum, its own label": "captum's TracIn, by its own label",
        "who knows the clouds": "by the true probabilities: the most that can be found",
    }
    for name, claim in claims.items():
        promised = not name.startswith(("captum", "who", "log"))
        met = min(hits[name]) >= 13 if promised else None
        yield Row("`influence`", f"15 wrong labels, {claim}", "≥ 13" if promised else "", _told(hits[name]), met)
    yield from _seconds("150 examples of 5 features, on 30", spent)
    yield from _seconds("2,000 examples of 64 features, on 30", _larger())


def _told(hits: list[int]) -> str:
    few = sum(one < 13 for one in hits)
    return f"{min(hits)} to {max(hits)}, mean {np.mean(hits):.1f}; below 13: {few} of {len(hits)}"


def _seconds(size: str, spent: dict[str, list[float]]) -> Iterator[Row]:
    ours = median(spent["ours"][1:])
    ratio, quick = (median(spent[name][1:]) / ours for name in ("captum", "fast"))
    claim = f"CPU of captum's {{}} : ours; {size}"
    yield at_least("`influence`", claim.format("`TracInCP`"), 20, ratio, "{:.2f}")
    yield Row("`influence`", claim.format("`TracInCPFast`, for last layers"), "", f"{quick:.2f}", None)


def _larger() -> dict[str, list[float]]:
    """Seconds at a head of 64 features and 2,000 examples, whose labels three random directions decide."""
    import torch

    from tests.explanations.test_influence import fitted

    rng = np.random.default_rng(17)
    x = rng.standard_normal((2030, 64)).astype(np.float32)
    y = (x @ rng.standard_normal((64, 3)) + 2 * rng.standard_normal((2030, 3))).argmax(1)
    one = Mislabelled(x[:2000], y[:2000], np.arange(0), fitted(x[:2000], y[:2000], 0.3), x[2000:], y[2000:])
    one.influences(one.others[:3], np.arange(3))
    spent: dict[str, list[float]] = {"ours": [], "captum": [], "fast": []}
    there = torch.from_numpy(one.others), torch.from_numpy(one.truth)
    with tempfile.TemporaryDirectory() as folder:
        peer, fast = one.tracin(Path(folder))
        for _ in range(6):
            _timed(spent["ours"], lambda: one.influences(one.others, one.truth))
            _timed(spent["captum"], lambda: peer.influence(there))
            _timed(spent["fast"], lambda: fast.influence(there))
    return spent


def _timed(spent: list[float], action: Callable[[], Any]) -> Any:
    started = time.process_time()
    found = action()
    spent.append(time.process_time() - started)
    return found


def comparison() -> Iterator[Row]:
    """SqueezeNet against itself with the channels of one layer in another order, and unrelated layers."""
    import onnx
    from onnx import numpy_helper

    from examples.watermark.squeezenet import squeezenet

    plain, moved = squeezenet(), squeezenet()
    squeeze = next(node for node in plain.graph.node if node.op_type == "Conv" and _reads_fire(node, plain, 8))
    weights = {one.name: one for one in moved.graph.initializer}
    layer = next(node for node in plain.graph.node if node.op_type == "Relu" and node.input[0] == squeeze.output[0])
    count = weights[squeeze.input[1]].dims[0]
    order = np.random.default_rng(3).permutation(count)
    for name in squeeze.input[1:]:
        array = numpy_helper.to_array(weights[name])[order]
        weights[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
    for node in moved.graph.node:
        if node.op_type == "Conv" and layer.output[0] in node.input:
            array = numpy_helper.to_array(weights[node.input[1]])[:, order]
            weights[node.input[1]].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), node.input[1]))
    found = []
    for proto in (plain, moved):
        proto.graph.output.append(onnx.helper.make_tensor_value_info(layer.output[0], 1, None))
        found.append(open_bytes(proto).run(None, {"image": np.ascontiguousarray(pictures())}))
    (logits, own), (same, other) = found
    assert np.abs(logits - same).max() < 1e-3 * np.abs(logits).max(), "a permuted copy is the same model"
    rows = [by_channel(np.moveaxis(one, 1, -1)) for one in (own, other)]
    matching = match_channels(*rows)
    assert matching is not None
    right = float(np.mean([order[its] == mine for mine, its in matching.partners]))
    what = f"{matching.channels} varying of {count} channels of `fire8`'s squeeze, permuted:"
    yield at_least("comparison", f"{what} the share that is matched", 1, matching.matched, "{:.1%}")
    yield at_least("comparison", f"{what} the share with the right partner", 1, right, "{:.1%}")
    k, moved_k = (one.reshape(len(one), -1).astype(float) for one in (own, other))
    cka = debiased_cka(k @ k.T, moved_k @ moved_k.T)
    assert cka is not None
    yield at_most("comparison", "the same: 1 - debiased CKA", 1e-5, abs(1 - cka))
    rng = np.random.default_rng(0)
    pairs = [[(x := rng.normal(size=(40, 500))) @ x.T for _ in range(2)] for _ in range(20)]
    every = [one for pair in pairs if (one := debiased_cka(*pair)) is not None]
    yield at_most(
        "comparison", "unrelated layers of 500 numbers at 40 examples: |mean CKA| of 20", 0.02, abs(np.mean(every))
    )


def _reads_fire(node: Any, proto: Any, number: int) -> bool:
    """Whether a convolution is the squeeze of a fire module: it has more inputs than outputs, and its name."""
    weight = next(one for one in proto.graph.initializer if one.name == node.input[1])
    return f"fire{number}/" in node.input[1] and weight.dims[0] < weight.dims[1]


def open_bytes(proto: Any) -> Any:
    """A session of one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def monitoring() -> Iterator[Row]:
    """A monitoring model's numbers against products written out here, and its time against a pass and a gradient."""
    from examples.watermark.squeezenet import squeezenet

    content, target = squeezenet().SerializeToString(), Target("t", index=281)
    loaded = load(content, interacts=False)
    model = OpenModel(loaded, target)
    x = np.ascontiguousarray(pictures())
    runs, _ = model.around({"image": x})
    a = runs.activations(x, "fire8").astype(float).mean((2, 3))
    gradient = runs.gradient(x, "fire8").astype(float).sum((2, 3))
    v = np.random.default_rng(5).normal(size=a.shape[1])
    v /= np.linalg.norm(v)
    along = a @ v
    watched = Watched("c", "fire8@mean", "fire8", "mean", v, 2.0, float(along.mean()), float(along.std()))
    session = open_session(monitoring_graph(loaded, [watched], [target]), threads=1)
    found = session.run({"image": x})
    for what, name, expected in (
        ("scores", score_name("c", "fire8@mean"), (along - along.mean()) / along.std()),
        ("sensitivities", sensitivity_name("c", "t", "fire8@mean"), gradient @ v * 2),
    ):
        got = found[name].astype(float)
        cosine = float(got @ expected / np.linalg.norm(got) / np.linalg.norm(expected))
        yield at_most(
            "`caveat monitor`", f"{what} of eight photographs, 1 - cosine with those written out", 1e-6, 1 - cosine
        )
    three = [target, Target("u", index=282), Target("w", index=283)]
    scores, three_classes = (
        open_session(monitoring_graph(loaded, [watched], targets), threads=1) for targets in ([], three)
    )
    plain = open_bytes(squeezenet())
    timed: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain.run(None, {"image": x}),
        "scores": lambda: scores.run({"image": x}),
        "one class": lambda: session.run({"image": x}),
        "three classes": lambda: three_classes.run({"image": x}),
        "apart": lambda: (plain.run(None, {"image": x}), runs.gradient(x, "fire8")),
    }
    spent = {name: list[float]() for name in timed}
    for _ in range(16):
        for name, call in timed.items():
            _timed(spent[name], call)
    cost = {name: median(every[2:]) / median(spent["plain"][2:]) for name, every in spent.items()}
    apart = cost["one class"] / cost["apart"]
    yield Row(
        "`caveat monitor`",
        "CPU : a pass and a gradient at the layer apart",
        "≤ 1.1",
        f"{apart:.2f}",
        apart <= 1.1,
    )
    for what, bound in (("scores", 1.1), ("one class", None), ("three classes", None)):
        with_them = "scores alone" if what == "scores" else f"scores and sensitivities of {what}"
        met = None if bound is None else cost[what] <= bound
        claim = f"CPU : the model's own pass; {with_them}"
        yield Row("`caveat monitor`", claim, "" if bound is None else f"≤ {bound}", f"{cost[what]:.2f}", met)


def editing() -> Iterator[Row]:
    """A direction of SqueezeNet's `fire8` scaled to nothing: what is left along it, and what moved beside it."""
    from examples.watermark.squeezenet import squeezenet

    proto, x = squeezenet(), np.ascontiguousarray(pictures())
    loaded = load(proto.SerializeToString(), interacts=False)
    runs, _ = OpenModel(loaded, Target("t", index=281)).around({"image": x})
    a = np.moveaxis(runs.activations(x, "fire8"), 1, -1).astype(float)
    v = np.random.default_rng(5).normal(size=a.shape[-1])
    v /= np.linalg.norm(v)
    origin = float((a @ v).mean())
    scaled = lambda factor: ScaledDirections(v[None], np.array([origin]), factor)  # noqa: E731
    changed = edited(proto, loaded, "fire8", scaled(0.0), {"row": "bench"})
    assert changed is not None
    after_runs, _ = OpenModel(load(changed.SerializeToString(), interacts=False), Target("t", index=281)).around(
        {"image": x}
    )
    after = np.moveaxis(after_runs.activations(x, "fire8"), 1, -1).astype(float)
    left = float((after @ v).std() / (a @ v).std())
    yield at_most("`caveat edit`", "sd along a direction of `fire8` scaled by 0, of that before", 1e-5, left)
    beside = [one - (one @ v)[..., None] * v for one in (a, after)]
    moved = float(np.abs(beside[1] - beside[0]).max() / a.std())
    yield at_most("`caveat edit`", "what moved across it, in sd of the layer", 1e-5, moved)
    kept = edited(proto, loaded, "fire8", scaled(1.0), {"row": "bench"}) is None
    yield Row(
        "`caveat edit`",
        "a factor of 1 writes no operator: the file's bytes stay",
        "none",
        "none" if kept else "some",
        kept,
    )


def proposals(planted: str) -> Iterator[Row]:
    """A planted shortcut among the first three proposals, and null models with any; no bound where nothing is named."""
    cases = {planted: (discovery.CASES | discovery.UNNAMED)[planted]}
    ((_, hits, seeds, alarms, nulls),) = discovery.rows(cases=cases)
    found = f"{planted}, without a name: among the first three, share of {seeds} seeds"
    peace = f"{planted}: share of {nulls} null models with a proposal"
    if planted in discovery.UNNAMED:
        yield Row("`discover`", found, "", f"{hits / seeds:.2f}", None)
        yield Row("`discover`", peace, "", f"{alarms / nulls:.2f}", None)
        return
    yield at_least("`discover`", found, 0.9, hits / seeds, "{:.2f}")
    yield at_most("`discover`", peace, 0.05, alarms / nulls, "{:.2f}")
    shares = discovery.gone(planted)
    claim = f"{planted}: share of its effect that is gone with its direction held, median of {len(shares)}; from, to"
    yield Row("`discover`", claim, "", f"{median(shares):.2f}; {min(shares):.2f}, {max(shares):.2f}", None)


BLOCKS: dict[str, Callable[[], Iterator[Row]]] = {
    "groups": groups,
    "groups over a set": groups_over_examples,
    "compatible_groups": groups_that_fit,
    "activation grids": places,
    "bag_of_features": bag,
    "informative_patches": informative_patches,
    "influence": left_out,
    "wrong labels": mislabels,
    "comparison": comparison,
    "edit": editing,
    "monitor": monitoring,
    "visualise": made_pictures,
    "study": study.rows,
    **{f"discover: {one}": partial(proposals, one) for one in (*discovery.CASES, *discovery.UNNAMED)},
}


def measured(only: str) -> tuple[list[list[str]], bool]:
    """The rows of the blocks whose name has `only` in it, and whether one of them failed."""
    rows: list[list[str]] = []
    failed = False
    for name, block in BLOCKS.items():
        if only not in name:
            continue
        print(name, flush=True)
        try:
            for row in block():
                rows.append(row.cells())
                print("  ", *rows[-1], flush=True)
        except Exception as error:
            traceback.print_exc()
            failed = True
            first = (str(error).splitlines() or [""])[0][:120]
            rows.append([name, f"**not measured**: {type(error).__name__}: {first}", "", "", "**no**"])
    return rows, failed


def joined(kept: list[list[str]], rows: list[list[str]]) -> list[list[str]]:
    """The rows of a page with others in place of those that make the same claim, or behind those of the same block."""
    found = [[*row] for row in kept]
    for row in rows:
        same = [place for place, one in enumerate(found) if one[:2] == row[:2]]
        block = [place for place, one in enumerate(found) if one[0] == row[0]]
        if same:
            found[same[0]] = row
        else:
            found.insert(block[-1] + 1 if block else len(found), row)
    return found


def kept_rows(page: str) -> list[list[str]]:
    """The rows that a page has."""
    lines = [line for line in page.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="measure the blocks whose name has this in it, and keep the others")
    only = parser.parse_args().only
    rows, failed = measured(only)
    told = [conditions()]
    if only:
        before = PAGE.read_text()
        rows = joined(kept_rows(before), rows)
        again = f"Blocks with *{only}* in their name again on"
        lines = [line for line in before.splitlines() if line.startswith(("Measured on", "Blocks with"))]
        told = [*(line for line in lines if not line.startswith(again)), conditions().replace("Measured on", again)]
    what = (
        "What the building blocks of [explanations](explanations.md) promise, held against truths that are computed "
        "beside them. Wrong labels are 15 of 150, in three clouds that overlap a little; forty seeds; a row counts how "
        "many of the fifteen most suspicious examples are wrong, the fewest and the most of the forty; that by its own "
        "label is `on: own_label`. "
        f"captum {installed('captum')} computes TracIn over one checkpoint, the same head, by its class `TracInCP`. "
        "Times are CPU seconds of one process on one thread, in turns, without the first calls: medians. Ours fit the "
        "head without each example, to the end for 150 and by one step for 2,000, which captum's scores do not; its "
        "class for last layers keeps to weights. The product's groups are made by scikit-learn's NMF: that row holds "
        "what is made of the factors, not the factors. Of `caveat monitor`, the peer is a pass of the model and then "
        "our own gradient at the layer, in two sessions; back from one class to `fire8` are 0.095 of the model's "
        "multiplications, so that no sensitivity costs less. Beside made pictures stands torch with lucent's "
        "parameters, its Adam, and the same colours and moves."
    )
    head = ["# Building blocks", "", "Generated by `make explain`.", "", textwrap.fill(what, 112), "", *told, ""]
    PAGE.write_text("\n".join([*head, table(["block", "claim", "bound", "found", "met"], rows)]))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
