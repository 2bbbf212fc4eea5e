"""Layers that have several rows for each example, such as one for each of its sensors: the same audit as without."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from caveat_spec.report import Report
from caveat_worker.engine.acting.edit import ScaledChannels, ScaledDirections, check_edit, edited
from caveat_worker.engine.acting.monitor import Watched, monitoring_graph, score_name, sensitivity_name
from caveat_worker.engine.activations.batches import numbers_in
from caveat_worker.engine.autodiff.channels import channel_axis
from caveat_worker.engine.autodiff.differentiate import cut_at, differentiate, expose, vjp
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations.layout import layout_of
from caveat_worker.engine.explanations.receptive_field import receptive_field
from caveat_worker.engine.onnx.session import open_session
from tests.audits.conftest import Bench

SENSORS, STEPS, WIDTH, CLASSES = 3, 8, 6, 4
MASK, TARGET = "attention_mask", Target("answer", index=1)
Array = NDArray[Any]


def network(
    *, apart: bool = False, batch: Any = "n", sensors: Any = SENSORS, by_sensor: bool = False, scores: int = CLASSES
) -> bytes:
    """[n, sensors, steps] → `hidden` and `second` [sensors · n, 6], or [n, sensors, 6] if `apart` → scores [n, 4].

    With `by_sensor` the rows of one sensor are together, those of all examples: [sensors, n, 6] if `apart`.
    """
    rng = np.random.default_rng(3)
    weights = {
        "first": rng.normal(size=(STEPS, WIDTH)),
        "then": rng.normal(size=(WIDTH, WIDTH)),
        "head": rng.normal(size=(WIDTH, CLASSES)),
    }
    n, order = helper.make_node, [1, 0, 2] if by_sensor else [0, 1, 2]
    merged = [n("Transpose", ["x"], ["ordered"], perm=order), n("Identity", ["ordered"], ["rows"])]
    back = [n("Identity", ["second"], ["parted"])]
    if not apart:
        merged[1] = n("Reshape", ["ordered", "flat"], ["rows"])
        back = [
            n("Shape", ["ordered"], ["sizes"], start=0, end=2),
            n("Concat", ["sizes", "width"], ["shape"], axis=0),
            n("Reshape", ["second", "shape"], ["parted"]),
        ]
    back.append(n("Transpose", ["parted"], ["again"], perm=order))
    nodes = [
        *merged,
        n("MatMul", ["rows", "first"], ["product"]),
        n("Tanh", ["product"], ["hidden"]),
        n("MatMul", ["hidden", "then"], ["deeper"]),
        n("Tanh", ["deeper"], ["second"]),
        *back,
        n("ReduceMean", ["again", "one"], ["pooled"], keepdims=0),
        n("MatMul", ["pooled", "head"], ["scores"]),
    ]
    numbers = {"flat": [-1, STEPS], "width": [WIDTH], "one": [1]}
    graph = helper.make_graph(
        nodes,
        "sensors",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, sensors, STEPS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, scores])],
        [
            *(numpy_helper.from_array(value.astype(np.float32) / 2, name) for name, value in weights.items()),
            *(numpy_helper.from_array(np.array(value), name) for name, value in numbers.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def examples(count: int, seed: int = 0, sensors: int = SENSORS) -> Array:
    return np.random.default_rng(seed).normal(size=(count, sensors, STEPS)).astype(np.float32)


@pytest.fixture
def sensors(bench: Bench) -> Bench:
    """An audit whose concept is a rise in the first sensor's last steps."""
    base, found = examples(40), examples(50, seed=1)
    rising = base.copy()
    rising[:, 0, -3:] += 1
    for name, values in (("base", base), ("rising", rising), ("found", found)):
        bench.save(f"{name}.npy", values)
    bench.document |= {
        "examples": {
            "base": {"arrays": "base.npy"},
            "rising": {"arrays": "rising.npy", "pairs_with": "base"},
            "found": {"arrays": "found.npy"},
        },
        "concepts": {"rise": {"examples": "rising", "against": "base"}},
        "targets": {"answer": {"index": 1, "examples": "found"}},
        "layers": ["hidden", "hidden@mean", "second@max"],
        "gate": [{"concept": "rise", "target": "answer", "must": "not_matter", "tolerance": 0.1}],
    }
    return bench


def figures(report: Report) -> list[float]:
    found = []
    for row in report.associations:
        assert row.finite_step is not None
        found += [row.effect.value, row.finite_step.value, row.accuracy.held_out]
        found += row.effect.interval
    return found


@pytest.mark.parametrize("order", [{}, {"apart": True, "by_sensor": True}])
@pytest.mark.parametrize("sizes", [{}, {"batch": 2}, {"batch": 1}, {"sensors": "sensors"}])
def test_an_audit_has_the_figures_of_the_same_model_with_the_batch_first(
    sensors: Bench, order: dict[str, Any], sizes: dict[str, Any]
) -> None:
    found = []
    for way in (order, {"apart": True}):
        (sensors.folder / "model.onnx").write_bytes(network(**way, **sizes))
        found.append(sensors.run())
    merged, usual = found
    assert len(figures(merged)) == 15
    np.testing.assert_allclose(figures(merged), figures(usual), rtol=1e-4, atol=1e-6)
    assert [row.layer for row in merged.associations] == [row.layer for row in usual.associations]


@pytest.mark.parametrize("order", [{}, {"apart": True, "by_sensor": True}])
def test_layers_have_the_batch_first(order: dict[str, Any]) -> None:
    model, usual = load(network(**order)), load(network(apart=True))
    found = {layer.tensor: layer for layer in list_layers(model, TARGET)}
    assert found["hidden"].shape == ("n", SENSORS, WIDTH)
    assert found["hidden"].auditable
    assert channel_axis(model, "hidden") == 2
    x = {"x": examples(5)}
    ours, theirs = (open_session(expose(one, ["hidden", "second"])).run(x) for one in (model, usual))
    gradients = [open_session(differentiate(one, ["hidden"], [TARGET])).run(x) for one in (model, usual)]
    for name in ("hidden", "second"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
    np.testing.assert_allclose(*(one["gradient/answer/hidden"] for one in gradients), rtol=1e-5)
    held = {**x, "hidden": theirs["hidden"] + 1}
    values = [open_session(cut_at(one, "hidden", [TARGET])).run(held)["value/answer"] for one in (model, usual)]
    np.testing.assert_allclose(*values, rtol=1e-5)
    seed = {**x, "seed/second": np.random.default_rng(2).normal(size=theirs["second"].shape).astype(np.float32)}
    pulled = [open_session(vjp(one, "second", ["hidden"])).run(seed)["gradient/hidden"] for one in (model, usual)]
    np.testing.assert_allclose(*pulled, rtol=1e-5)


def test_as_many_rows_as_an_input_says_are_by_its_name() -> None:
    model = load(network(sensors="sensors"))
    hidden = {layer.tensor: layer for layer in list_layers(model, TARGET)}["hidden"]
    assert hidden.auditable
    assert (hidden.shape[0], hidden.shape[2]) == ("n", WIDTH)
    for count in (2, 5):
        (found,) = open_session(expose(model, ["hidden"])).run({"x": examples(3, sensors=count)}).values()
        assert found.shape == (3, count, WIDTH)


def test_rows_that_are_not_together_for_each_example_are_refused(sensors: Bench) -> None:
    model = load(network(by_sensor=True))
    refused = {layer.tensor: layer.reason for layer in list_layers(model, TARGET) if not layer.auditable}
    assert refused["hidden"] == refused["second"] == "Its first axis is not the batch."
    (sensors.folder / "model.onnx").write_bytes(network(by_sensor=True))
    with pytest.raises(InvalidInput, match="Layer 'hidden' cannot be audited") as refusal:
        sensors.run()
    assert "again, pooled" in refusal.value.remedy


def test_scores_with_several_rows_for_each_example_are_refused() -> None:
    model = onnx.load_from_string(network())
    model.graph.output[0].name = "second"
    sizes = model.graph.output[0].type.tensor_type.shape.dim
    sizes[0].dim_param, sizes[1].dim_value = "rows", WIDTH
    with pytest.raises(InvalidInput, match="have no row for each example"):
        list_layers(load(model.SerializeToString()), TARGET)


@pytest.mark.parametrize("order", [{}, {"apart": True, "by_sensor": True}])
def test_a_monitoring_model_gives_the_scores_of_each_example(order: dict[str, Any]) -> None:
    rng = np.random.default_rng(5)
    watched = [
        Watched("rise", "hidden", "hidden", "flatten", rng.normal(size=(SENSORS, WIDTH)), 1.5, 0.25, 2.0),
        Watched("rise", "second@mean", "second", "mean", rng.normal(size=WIDTH), 0.5, 0.1, 1.0),
    ]
    names = [score_name("rise", one.layer) for one in watched]
    names += [sensitivity_name("rise", "answer", one.layer) for one in watched]
    ours, theirs = (
        open_session(monitoring_graph(load(network(**way)), watched, [TARGET]), threads=1).run({"x": examples(7)})
        for way in (order, {"apart": True})
    )
    for name in ["scores", *names]:
        assert len(ours[name]) == 7
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("order", [{}, {"apart": True, "by_sensor": True}])
def test_an_edit_changes_every_row_alike(order: dict[str, Any]) -> None:
    proto, rng = onnx.load_from_string(network(**order)), np.random.default_rng(6)
    model, shared = load(network(**order)), ScaledDirections(rng.normal(size=(1, WIDTH)), np.array([0.3]), 0.0)
    for edit in (shared, ScaledChannels((2,), 0.0)):
        changed = edited(proto, model, "hidden", edit, {})
        assert changed is not None
        assert check_edit(model, load(changed.SerializeToString()), "hidden", edit) < 1e-5
        session = ort.InferenceSession(changed.SerializeToString(), providers=["CPUExecutionProvider"])
        assert session.run(None, {"x": examples(4)})[0].shape == (4, CLASSES)


def test_an_edit_of_all_rows_together_is_made_where_the_model_has_them_apart() -> None:
    whole = ScaledDirections(np.random.default_rng(6).normal(size=(1, SENSORS, WIDTH)), np.array([0.3]), 0.0)
    content = network(apart=True, by_sensor=True)
    changed = edited(onnx.load_from_string(content), load(content), "hidden", whole, {})
    assert changed is not None
    assert check_edit(load(content), load(changed.SerializeToString()), "hidden", whole) < 1e-5
    with pytest.raises(InvalidInput, match="several rows for each example") as refusal:
        edited(onnx.load_from_string(network()), load(network()), "hidden", whole, {})
    assert "`reduce: mean`" in refusal.value.remedy


def test_several_sequences_of_an_example_are_explained_as_one() -> None:
    """Windows [4n, tokens, channels] are no picture of 4 rows and as many columns as tokens."""
    n = helper.make_node
    graph = helper.make_graph(
        [
            n("Reshape", ["x", "windows"], ["rows"]),
            n("MatMul", ["rows", "w"], ["mixed"]),
            n("Softmax", ["mixed"], ["hidden"], axis=-1),
            n("Reshape", ["hidden", "back"], ["again"]),
            n("ReduceMax", ["again", "one"], ["scores"], keepdims=0),
        ],
        "windows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 20, 5])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 6])],
        [
            numpy_helper.from_array(np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32), "w"),
            numpy_helper.from_array(np.array([-1, 5, 5]), "windows"),
            numpy_helper.from_array(np.array([-1, 20, 6]), "back"),
            numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    model = load(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )
    layout, values = layout_of(model, "hidden"), np.random.default_rng(0).normal(size=(2, 4, 5, 6))
    assert layout.sizes(("n", 4, 5, 6)) == ("n", 20, 6)
    assert layout.seen(values).shape == (2, 20, 6)
    np.testing.assert_array_equal(layout.own(layout.seen(values)), values)
    assert receptive_field(model, "hidden", "x") == (None, None, None, None)


def test_memory_is_counted_for_all_rows_of_an_example() -> None:
    assert numbers_in(("4*batch", 5, 6)) == 120
    assert numbers_in(("batch", 5, 6)) == numbers_in((7, 5, 6)) == numbers_in((None, 5, 6)) == 30
    assert numbers_in(("batch*tokens", 5)) == 5


def choices(length: int) -> bytes:
    """Ids and a mask [n, choices, tokens] → `embedded` [choices · n, tokens, 6] → their mean → a score each."""
    rng, n = np.random.default_rng(8), helper.make_node
    graph = helper.make_graph(
        [
            n("Reshape", ["input_ids", "flat"], ["ids"]),
            n("Reshape", ["attention_mask", "flat"], ["marks"]),
            n("Gather", ["words", "ids"], ["found"]),
            n("Tanh", ["found"], ["embedded"]),
            n("Cast", ["marks"], ["real"], to=TensorProto.FLOAT),
            n("Unsqueeze", ["real", "last"], ["each"]),
            n("Mul", ["embedded", "each"], ["kept"]),
            n("ReduceSum", ["kept", "one"], ["sum"], keepdims=0),
            n("ReduceSum", ["each", "one"], ["count"], keepdims=0),
            n("Div", ["sum", "count"], ["pooled"]),
            n("MatMul", ["pooled", "head"], ["score"]),
            n("Reshape", ["score", "again"], ["scores"]),
        ],
        "choices",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", 2, length]) for name in ("input_ids", MASK)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [
            numpy_helper.from_array(rng.normal(size=(20, WIDTH)).astype(np.float32), "words"),
            numpy_helper.from_array(rng.normal(size=(WIDTH, 1)).astype(np.float32), "head"),
            *(
                numpy_helper.from_array(np.array(value), name)
                for name, value in {"flat": [-1, length], "last": [-1], "one": [1], "again": [-1, 2]}.items()
            ),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


def test_a_mean_over_the_texts_of_an_example_leaves_their_padding_out(sensors: Bench) -> None:
    sensors.document["layers"] = ["embedded@mean", "embedded@max"]
    found = []
    for length in (6, 9):
        (sensors.folder / "model.onnx").write_bytes(choices(length))
        rng = np.random.default_rng(9)
        for name, count in (("base", 40), ("rising", 40), ("found", 50)):
            marks = np.arange(length) < rng.integers(2, 6, (count, 2, 1))
            ids = np.zeros((count, 2, length), np.int64)
            ids[..., :6] = rng.integers(3, 20, (count, 2, 6))
            ids[:, 0, 0] = 1 if name == "rising" else ids[:, 0, 0]
            ids[~marks] = 0
            np.savez(sensors.folder / f"{name}.npz", ids=ids, marks=marks.astype(np.int64))
            inputs = {"inputs": {"input_ids": "ids", MASK: "marks"}}
            sensors.document["examples"][name] = {"arrays": f"{name}.npz", **inputs}
        found.append(figures(sensors.run()))
    assert len(found[0]) == 10
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6)


def test_a_monitoring_model_leaves_the_padding_of_an_examples_texts_out() -> None:
    rng = np.random.default_rng(2)
    watched = Watched("rise", "embedded@mean", "embedded", "mean", rng.normal(size=WIDTH), 1.5, 0.25, 2.0)
    model = load(choices(7))
    ids, marks = rng.integers(1, 20, (4, 2, 7)), np.arange(7) < rng.integers(1, 8, (4, 2, 1))
    feeds = {"input_ids": ids, MASK: marks.astype(np.int64)}
    found = open_session(monitoring_graph(model, [watched], [TARGET]), threads=1).run(feeds)
    (embedded,) = open_session(expose(model, ["embedded"]), threads=1).run(feeds).values()
    along = np.array([(texts[real] @ watched.vector).mean() for texts, real in zip(embedded, marks, strict=True)])
    np.testing.assert_allclose(found[score_name("rise", "embedded@mean")], (along - 0.25) / 2, rtol=1e-4)


def test_scores_of_which_the_file_says_what_they_are_not_are_refused(sensors: Bench) -> None:
    """Declared as [1, length], and [length, 1, classes] of examples that are longer than the noise."""
    n, rng = helper.make_node, np.random.default_rng(4)
    graph = helper.make_graph(
        [
            n("Transpose", ["x"], ["ordered"], perm=[1, 0, 2]),
            n("Slice", ["ordered", "from", "to"], ["later"]),
            n("MatMul", ["later", "first"], ["product"]),
            n("Tanh", ["product"], ["hidden"]),
            n("MatMul", ["hidden", "head"], ["scores"]),
        ],
        "steps",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "T", STEPS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, "length"])],
        [
            numpy_helper.from_array(rng.normal(size=(STEPS, WIDTH)).astype(np.float32), "first"),
            numpy_helper.from_array(rng.normal(size=(WIDTH, CLASSES)).astype(np.float32), "head"),
            numpy_helper.from_array(np.array([1]), "from"),
            numpy_helper.from_array(np.array([99]), "to"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, sensors.folder / "model.onnx")
    sensors.document["layers"] = ["hidden"]
    with pytest.raises(InvalidInput, match="have no row for each example: tensor 'scores' is 2 x 1 x 4 for 1 example"):
        sensors.run()
