"""Groups of channels: what they add up to, over one example, over a set, across layers, and by place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from statistics import mean, median

import numpy as np

from bench.building_blocks.photographs import pictures
from bench.rows import Row, at_least, at_most
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.explanations import explanation
from caveat_worker.engine.explanations.factors import dictionary, signed_factors
from caveat_worker.engine.explanations.model_runs import OpenModel

SEEDS = range(10)


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
