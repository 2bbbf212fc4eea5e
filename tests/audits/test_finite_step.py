"""A whole step, taken by the rest of the model, against the same by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from caveat_reports.canonical import canonical
from caveat_worker import pipeline
from caveat_worker.array_stores import cached, scratch
from caveat_worker.engine.activations import array_keys, feature_space
from caveat_worker.engine.autodiff.differentiate import expose
from caveat_worker.engine.base.store import ArrayStore
from caveat_worker.engine.concepts import activation_intervention
from caveat_worker.engine.statistics.scale import scale
from tests.audits.conftest import Bench

Float64Array = NDArray[np.float64]


def weights(bench: Bench) -> dict[str, Float64Array]:
    model = onnx.load(bench.folder / "model.onnx")
    return {one.name: numpy_helper.to_array(one).astype(np.float64) for one in model.graph.initializer}


def arrays(bench: Bench, *names: str) -> list[Float64Array]:
    return [np.load(bench.folder / f"{name}.npy").astype(np.float64) for name in names]


def test_it_is_what_the_rest_of_the_model_makes_of_the_step(bench: Bench) -> None:
    w = weights(bench)
    base, used, targets = (np.tanh(x @ w["w1"]) for x in arrays(bench, "base", "used", "targets"))

    def logit(hidden: Float64Array) -> Float64Array:
        return (np.tanh(hidden @ w["w2"]) @ w["w3"])[:, 0]

    change = logit(targets + used.mean(0) - base.mean(0)) - logit(targets)
    row = bench.run().associations[0]
    assert row.finite_step is not None
    assert row.finite_step.value == pytest.approx(change.mean(), rel=1e-4)
    assert row.finite_step.in_sd == pytest.approx(change.mean() / scale(logit(targets)), rel=1e-4)
    low, high = row.finite_step.interval
    assert low < change.mean() < high
    assert high - low == pytest.approx(4 * change.std(ddof=1) / np.sqrt(len(change)), rel=0.2)


def test_in_probabilities_and_decisions_it_is_that_of_the_same_step(bench: Bench) -> None:
    """Asked for by a line of the gate; the measured change of the pairs has them without being asked."""
    w = weights(bench)
    base, used, targets = (np.tanh(x @ w["w1"]) for x in arrays(bench, "base", "used", "targets"))

    def shares(hidden: Float64Array) -> Float64Array:
        scores = np.exp(np.tanh(hidden @ w["w2"]) @ w["w3"])
        return scores[:, 0] / scores.sum(1)

    for unit, line in zip(("probability", "decisions"), bench.document["gate"], strict=True):
        line |= {"unit": unit, "concept": "used"}
    report = bench.run()
    before, after = shares(targets), shares(targets + used.mean(0) - base.mean(0))
    step, measured = report.associations[0].finite_step, report.interventions[0].effect
    for found, moved in (
        (step, (before, after)),
        (measured, [shares(np.tanh(one @ w["w1"])) for one in arrays(bench, "base", "used")]),
    ):
        assert found is not None
        assert found.in_probability is not None
        assert found.in_decisions is not None
        assert found.in_probability.value == pytest.approx((moved[1] - moved[0]).mean(), rel=1e-4)
        flipped = ((moved[0] > 0.5) != (moved[1] > 0.5)).mean()
        assert found.in_decisions.value == pytest.approx(flipped, rel=1e-5)
        assert found.in_decisions.interval[0] < found.in_decisions.value < found.in_decisions.interval[1]
    assert "percentage points" in report.verdict.lines[0].reason
    assert "% of decisions about first" in report.verdict.lines[1].reason


def test_without_pairs_a_line_in_decisions_rests_on_the_finite_step(bench: Bench) -> None:
    bench.save("ignored.npy", arrays(bench, "base")[0] + np.array([0, 3, 0, 0]))  # so far apart that it is no chance
    for example in ("used", "ignored"):
        del bench.document["examples"][example]["pairs_with"]
    for line in bench.document["gate"]:
        line["unit"] = "decisions"
    used, ignored = bench.run().verdict.lines
    assert (used.finding, ignored.finding) == ("influential", "not_influential")
    assert "By association" in used.reason
    assert "0 to 5.96 % of decisions" in ignored.reason


def test_a_concept_that_nothing_reads_moves_nothing(bench: Bench) -> None:
    row = bench.run().associations[1]
    assert row.finite_step is not None
    assert row.finite_step.value == pytest.approx(0, abs=1e-6)


def test_beyond_another_concept_the_step_is_what_is_left_of_it(bench: Bench) -> None:
    bench.save("both.npy", arrays(bench, "base")[0] + np.array([1.5, 1.5, 0, 0]))
    bench.document["examples"]["both"] = {"arrays": "both.npy", "pairs_with": "base"}
    bench.document["concepts"]["both"] = {"examples": "both", "against": "base", "controlling_for": ["used"]}
    used, _, both = bench.run().associations
    assert used.finite_step is not None
    assert both.finite_step is not None
    assert abs(both.finite_step.value) < 0.2 * abs(used.finite_step.value)


@pytest.fixture
def branching(bench: Bench) -> Bench:
    """Tokens [N, 5, 4] → `hidden` [N, 5, 4], mixed with the input that goes around it → two logits."""
    rng = np.random.default_rng(2)
    w = {"a": rng.normal(size=(4, 4)), "b": rng.normal(size=(20, 6)) / 3, "c": rng.normal(size=(6, 2))}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["z"]),
        helper.make_node("Tanh", ["z"], ["hidden"]),
        helper.make_node("Mul", ["hidden", "x"], ["mixed"]),
        helper.make_node("Flatten", ["mixed"], ["flat"]),
        helper.make_node("MatMul", ["flat", "b"], ["y"]),
        helper.make_node("Tanh", ["y"], ["t"]),
        helper.make_node("MatMul", ["t", "c"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in w.items()],
    )
    path = bench.folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    for name in ("base", "targets"):
        bench.save(f"{name}.npy", rng.normal(size=(40, 5, 4)))
    bench.save("used.npy", arrays(bench, "base")[0] + np.array([1.0, 0, 0, 0]))
    del bench.document["concepts"]["ignored"], bench.document["examples"]["ignored"], bench.document["gate"][1]
    return bench


Reduced = Callable[[Float64Array, Float64Array], Float64Array]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    ("layer", "shift"),
    [
        ("hidden", lambda h, step: h + step),
        ("hidden@mean", lambda h, step: h + step.mean(0)),
        ("hidden@token:2", lambda h, step: h + step[2] * (np.arange(5) == 2)[:, None]),
    ],
)
def test_a_step_at_reduced_features_beside_a_branch_around_the_layer(
    branching: Bench, layer: str, shift: Reduced, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the layer as the first pass left it, or by another pass up to it."""
    if not kept:
        monkeypatch.setattr(array_keys, "MOST_KEPT", 0)
    w = weights(branching)
    x = dict(zip(("base", "used", "targets"), arrays(branching, "base", "used", "targets"), strict=True))
    hidden = {name: np.tanh(one @ w["a"]) for name, one in x.items()}

    def logit(h: Float64Array) -> Float64Array:
        return (np.tanh((h * x["targets"]).reshape(-1, 20) @ w["b"]) @ w["c"])[:, 0]

    step = hidden["used"].mean(0) - hidden["base"].mean(0)
    change = logit(shift(hidden["targets"], step)) - logit(hidden["targets"])
    branching.document["layers"] = [layer]
    (row,) = branching.run().associations
    assert row.finite_step is not None
    assert row.finite_step.value == pytest.approx(change.mean(), rel=1e-4)


Store = Callable[[], AbstractContextManager[ArrayStore]]


@pytest.fixture
def kept_store(tmp_path: Path) -> tuple[Path, Store]:
    """A folder of kept arrays, and the store over it into which each audit puts what it made."""
    kept = tmp_path / "kept"
    kept.mkdir()
    runs = iter(range(9))

    @contextmanager
    def store() -> Iterator[ArrayStore]:
        fresh = tmp_path / f"fresh{next(runs)}"
        with cached(kept, fresh) as found:
            yield found
        for entry in fresh.glob("*.npy"):
            entry.rename(kept / entry.name)

    return kept, store


def test_a_shelf_that_lost_what_a_step_is_made_of_is_done_without(
    bench: Bench, kept_store: tuple[Path, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_space, "FEWER", 1 << 20)  # by inner products, which say all but the steps
    plain = canonical(bench.run())
    kept, store = kept_store
    bench.run(store=store)
    for entry in kept.glob("*.npy"):
        if np.load(entry).shape in ((40, 9), (1, 60)):  # activations of concepts and pool, and what steps came to
            entry.unlink()
    begun_anew = []
    monkeypatch.setattr(pipeline, "scratch", lambda: begun_anew.append(1) or scratch())
    assert canonical(bench.run(store=store)) == plain
    assert begun_anew


@pytest.mark.parametrize("lost", [False, True])
def test_another_concept_steps_from_the_layer_that_the_first_audit_kept(
    branching: Bench, kept_store: tuple[Path, Store], monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    kept, store = kept_store
    branching.document["layers"] = ["hidden@mean"]
    branching.run(store=store)
    if lost:
        (whole,) = (entry for entry in kept.glob("*.npy") if np.load(entry).shape == (40, 5, 4))
        whole.unlink()
    branching.save("other.npy", arrays(branching, "base")[0] + np.array([0, 1.0, 0, 0]))
    branching.document["examples"]["used"]["arrays"] = "other.npy"
    plain = canonical(branching.run())
    passes = []
    monkeypatch.setattr(activation_intervention, "expose", lambda *a: passes.append(a) or expose(*a))
    assert canonical(branching.run(store=store)) == plain
    assert not passes
