"""Influence of examples: against fitting again, and wrong labels that it finds, beside captum's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.measure import timed
from bench.rows import Row, at_least
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.explanations import explanation
from caveat_worker.engine.explanations.model_runs import OpenModel

SEEDS = range(10)
MANY = range(40)
"""Seeds of wrong labels: of ten, all may reach a bound that a seventh of them miss."""
PLANTED = 15
"""Wrong labels among 150."""


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
            harm = -timed(spent["ours"], lambda one=one: one.influences(one.others, one.truth)).sum(0)
            traced = timed(spent["captum"], lambda peer=peer, there=there: peer.influence(there))
            quick = timed(spent["fast"], lambda fast=fast, there=there: fast.influence(there))
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
            timed(spent["ours"], lambda: one.influences(one.others, one.truth))
            timed(spent["captum"], lambda: peer.influence(there))
            timed(spent["fast"], lambda: fast.influence(there))
    return spent
