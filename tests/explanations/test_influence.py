"""Influence at the head is what leaving an example out does, and finds labels that are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations import explanation
from caveat_worker.engine.explanations import influence as module
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.head import find_head
from caveat_worker.engine.panels.choice import Source
from caveat_worker.engine.panels.labelled import LabelledSets
from tests.engine.nets import Net
from tests.explanations.models import opened

D = 5


def clouds(n: int, classes: int, seed: int, apart: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Points around a middle for each class [n, 5], and their classes [n]."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    middles = np.random.default_rng(99).standard_normal((classes, D)) * apart
    return (middles[y] + rng.standard_normal((n, D))).astype(np.float32), y


def fitted(x: np.ndarray, y: np.ndarray, c: float) -> LogisticRegression:
    return LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(x, y)


def network(head: LogisticRegression, **target: Any) -> Any:
    """The fitted head behind features that are the input itself."""
    net = Net(0)
    weights, bias = net.constant(head.coef_.T), net.constant(head.intercept_)
    scores = net.op("Add", net.op("MatMul", net.op("Identity", "x"), weights), bias)
    return opened(net.model(("n", D), scores), **target)


def labelled(x: np.ndarray, y: Any) -> LabelledSets:
    source = Source(
        names={"train": [str(row) for row in range(len(x))]},
        keys={},
        feeds=lambda name, rows: {"x": x[list(rows)]},
        columns=lambda name, columns: {"y": np.asarray(y)},
        parts=lambda name, row: {},
    )
    return LabelledSets(source)


def influence(model: Any, example: np.ndarray, x: np.ndarray, y: Any, **options: Any) -> Attributed:
    runs, there = model.around({"x": example})
    runs.labelled_sets = labelled(x, y)
    one = explanation("influence")
    return one.run(runs, there, one.entry.options(training="train", labels="y", **options))


@pytest.mark.parametrize(
    ("classes", "target"),
    [
        (2, {"index": None}),
        pytest.param(3, {"index": 0, "versus": 2}, marks=pytest.mark.slow),
        pytest.param(4, {"index": 1, "versus": 3}, marks=pytest.mark.slow),
    ],
)
def test_it_is_what_leaving_each_example_out_does(classes: int, target: dict[str, Any]) -> None:
    n, c = 120, 1.0
    x, y = clouds(n, classes, seed=classes)
    example = clouds(1, classes, seed=50)[0]

    def number(head: LogisticRegression) -> float:
        scores = head.decision_function(example).reshape(-1)
        return float(scores[0] if classes == 2 else scores[target["index"]] - scores[target["versus"]])

    whole = fitted(x, y, c)
    found = influence(network(whole, **target), example, x, y)
    assert found.withheld is None
    others = [np.delete(np.arange(n), row) for row in range(n)]
    left_out = [number(whole) - number(fitted(x[rest], y[rest], c)) for rest in others]
    assert np.corrcoef(found.values[0], left_out)[0, 1] > 0.99
    assert np.median(np.abs(found.values[0] - left_out)) < 0.2 * np.abs(left_out).mean()
    assert f"Weight decay {1 / (n * c):.3g}"[:18] in found.notes[0], "what the fit was given is told from its weights"


def test_planted_mislabels_speak_against_their_own_classes() -> None:
    """Fifteen of 150 labels are wrong: 13 or more are among the fifteen that most harm other examples' classes."""
    x, y = clouds(150, 3, seed=7, apart=2.0)
    rng = np.random.default_rng(8)
    wrong = rng.choice(150, 15, replace=False)
    given = y.copy()
    given[wrong] = (given[wrong] + rng.integers(1, 3, 15)) % 3
    head = fitted(x, given, 0.3)
    others, truth = clouds(30, 3, seed=9, apart=2.0)
    harm = np.zeros(150)
    for row, label in enumerate(truth):
        model = network(head, index=int(label), scale="log_probability")
        harm -= influence(model, others[[row]], x, given).values[0]
    assert len(set(np.argsort(-harm)[:15]) & set(wrong)) >= 13


def test_a_head_that_was_fitted_on_something_else_is_withheld() -> None:
    x, y = clouds(60, 3, seed=3)
    model, example = network(fitted(x, y, 1.0), index=0), clouds(1, 3, seed=5)[0]
    shuffled = np.random.default_rng(0).permutation(y)
    found = influence(model, example, x, shuffled)
    assert found.withheld is not None
    assert "not at a minimum of the loss over these examples" in found.withheld


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [([0, 1, 5] * 20, "'y' holds '5', which is neither one of the numbers 0 to 2"), ([1] * 60, "All 60 labels by 'y'")],
)
def test_labels_that_are_no_classes_are_refused(labels: list[int], sentence: str) -> None:
    x, y = clouds(60, 3, seed=3)
    with pytest.raises(InvalidInput) as refused:
        influence(network(fitted(x, y, 1.0), index=0), x[:1], x, labels)
    assert sentence in refused.value.sentence


def test_a_head_that_is_not_affine_is_refused() -> None:
    net = Net(0)
    scores = net.op("Tanh", net.dense("x", D, 3))
    model = opened(net.model(("n", D), scores), index=0)
    with pytest.raises(InvalidInput, match="it comes from an operator Tanh"):
        find_head(model.model, model.scores_at)


def test_a_dense_layer_may_be_written_in_two_ways() -> None:
    for build in (
        lambda net: net.dense("x", D, 3),
        lambda net: net.op("Add", net.op("MatMul", "x", net.weight(D, 3)), net.weight(3)),
    ):
        net = Net(4)
        model = opened(net.model(("n", D), build(net)), index=0)
        head = find_head(model.model, model.scores_at)
        runs, x = model.around({"x": np.ones((1, D), np.float32)})
        assert runs.pull(model.scores_at, np.eye(3, dtype=np.float32), "input", x) == pytest.approx(head.weights)


def log_p(head: LogisticRegression, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    found: np.ndarray = head.predict_log_proba(x)[np.arange(len(x)), y]
    return found


@pytest.mark.parametrize("classes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_on_its_own_label_it_is_what_leaving_the_example_out_takes_from_log_p(classes: int) -> None:
    x, y = clouds(60, classes, seed=classes)
    whole = fitted(x, y, 1.0)
    target: dict[str, Any] = {"index": None if classes == 2 else 0}
    found = influence(network(whole, **target), x[:1], x, y, on="own_label")
    others = [np.delete(np.arange(60), row) for row in range(60)]
    without = [log_p(fitted(x[rest], y[rest], 1.0), x[[row]], y[[row]])[0] for row, rest in enumerate(others)]
    truth = log_p(whole, x, y) - without
    assert found.withheld is None
    assert np.corrcoef(found.values[0], truth)[0, 1] > 0.9999
    assert np.abs(found.values[0] - truth).max() < 1e-3 * truth.max()
    assert (found.values >= 0).all(), "no example is against its own label"
    assert "by fitting it again" in found.notes[0]


def test_wrong_labels_come_first_by_what_they_do_for_themselves() -> None:
    x, y = clouds(150, 3, seed=7, apart=2.0)
    rng = np.random.default_rng(8)
    wrong = rng.choice(150, 15, replace=False)
    given = y.copy()
    given[wrong] = (given[wrong] + rng.integers(1, 3, 15)) % 3
    found = influence(network(fitted(x, given, 0.3), index=0), x[:1], x, given, on="own_label").values[0]
    assert len(set(np.argsort(-found)[:15]) & set(wrong)) >= 13


def wide(n: int, d: int, classes: int) -> tuple[np.ndarray, np.ndarray, Any, LogisticRegression]:
    """Many features, of which a few decide the class, and the head that was fitted to them."""
    rng = np.random.default_rng(d)
    x = rng.standard_normal((n, d)).astype(np.float32)
    y = (x[:, :3] @ rng.standard_normal((3, classes)) + rng.standard_normal((n, classes))).argmax(1)
    head, net = fitted(x, y, 0.05), Net(0)
    weights, bias = net.constant(head.coef_.T), net.constant(head.intercept_)
    scores = net.op("Add", net.op("MatMul", net.op("Identity", "x"), weights), bias)
    return x, y, opened(net.model(("n", d), scores), index=None if classes == 2 else 0), head


def test_one_step_is_newton_s_from_the_whole_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A literal twin, to float32: the Hessian without an example in all weights, and the gradient that is left."""
    monkeypatch.setattr(module, "_FITTED_AGAIN", 0)
    n, k, c = 90, 3, 1.0
    x, y = clouds(n, k, seed=11)
    head, example = fitted(x, y, c), clouds(1, k, seed=50)[0]
    found = influence(network(head, index=0, versus=2), example, x, y, decay=1 / (n * c))
    own = influence(network(head, index=0, versus=2), example, x, y, decay=1 / (n * c), on="own_label")
    assert "by one step of Newton's method" in found.notes[0]
    wide_x = np.concatenate([x.astype(float), np.ones((n, 1))], axis=1)
    p = head.predict_proba(x)
    each = [np.kron(np.diag(p[i]) - np.outer(p[i], p[i]), np.outer(wide_x[i], wide_x[i])) for i in range(n)]
    decay = np.kron(np.eye(k), np.diag([1 / c] * D + [0]))
    number = np.kron([1, 0, -1], np.append(example[0], 1))
    for row in range(n):
        gradient = np.kron(np.eye(k)[y[row]] - p[row], wide_x[row])
        step = np.linalg.pinv(sum(each) - each[row] + decay, rcond=1e-9) @ gradient
        assert found.values[0, row] == pytest.approx(number @ step, rel=2e-3, abs=1e-5)
        scores = np.log(p[row]) - (step.reshape(k, -1) @ wide_x[row])
        there = scores - np.log(np.exp(scores).sum())
        assert own.values[0, row] == pytest.approx(np.log(p[row, y[row]]) - there[y[row]], rel=2e-3, abs=1e-5)


def test_heads_that_are_too_large_for_own_labels_are_refused_with_a_remedy() -> None:
    x, y, model, _ = wide(40, 1100, 2)
    whole = influence(model, x[:1], x, y, on="own_label")
    assert whole.values.shape == (1, 40)
    assert (whole.values >= 0).all()
    x, y, model, _ = wide(40, 1400, 4)
    with pytest.raises(InvalidInput, match=r"up to 4,096 weights, and this one has 4,203") as refused:
        influence(model, x[:1], x, y, on="own_label")
    assert "pick: errors" in refused.value.remedy
