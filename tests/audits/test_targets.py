"""Targets as models have them: classes by name, several sigmoids, and heads with more axes than classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from caveat_spec.report import Report
from caveat_worker.engine.base.errors import InvalidInput
from tests.audits.conftest import Bench
from tests.engine import trees

NAMES = ["horse", "zebra"]


def target(bench: Bench, **fields: Any) -> Bench:
    bench.document["targets"] = {"first": {"examples": "targets", **fields}}
    return bench


def in_metadata(bench: Bench) -> None:
    model = onnx.load(bench.folder / "model.onnx")
    helper.set_model_props(model, {"names": "{0: 'horse', 1: 'zebra'}", "author": "somebody"})
    onnx.save(model, bench.folder / "model.onnx")


def in_a_text(bench: Bench) -> None:
    (bench.folder / "labels.txt").write_text("horse\nzebra\n")
    bench.document["labels"] = "labels.txt"


def in_json(bench: Bench) -> None:
    (bench.folder / "labels.json").write_text(json.dumps({"0": "horse", "1": "zebra"}))
    bench.document["labels"] = "labels.json"


@pytest.mark.parametrize("name_classes", [in_metadata, in_a_text, in_json])
def test_a_class_by_its_name_is_the_class_by_its_number(bench: Bench, name_classes: Callable[[Bench], None]) -> None:
    name_classes(bench)
    by_number = target(bench, index=1).run()
    by_name = target(bench, **{"class": "zebra"}).run()
    assert by_name.tests == by_number.tests
    assert by_name.plan.targets[0].sentence.startswith("Target 'first' is class 1 ('zebra') of tensor 'logits'")
    assert by_name.audit.model_dump(mode="json")["targets"]["first"]["class"] == "zebra"


def test_classifiers_of_ai_onnx_ml_name_their_classes(bench: Bench) -> None:
    onnx.save(trees.boosted_classifier(NAMES, zip_map=True), bench.folder / "model.onnx")
    bench.document["layers"] = "auto"
    report = target(bench, **{"class": "zebra"}).run()
    moved = [trees.probability(np.load(bench.folder / f"{name}.npy")) for name in ("used", "base")]
    assert report.interventions[0].effect.value == pytest.approx((moved[0] - moved[1]).mean(), abs=1e-6)


def test_two_classes_may_be_named(bench: Bench) -> None:
    in_metadata(bench)
    assert target(bench, **{"class": "zebra", "versus": "horse"}).run().tests == (
        target(bench, index=1, versus=0).run().tests
    )


@pytest.mark.parametrize(
    ("fields", "code", "words", "field"),
    [
        ({"class": "zebar"}, "unknown-class", "no class 'zebar'.*Close to it are 'zebra'", "class"),
        ({"index": 0, "versus": "mule"}, "unknown-class", "no class 'mule'.*'horse', 'zebra'", "versus"),
    ],
)
def test_a_wrong_name_is_refused_with_close_ones(
    bench: Bench, fields: dict[str, Any], code: str, words: str, field: str
) -> None:
    in_metadata(bench)
    with pytest.raises(InvalidInput, match=words) as caught:
        target(bench, **fields).run()
    assert (caught.value.code, caught.value.pointer) == (code, f"/targets/first/{field}")


def test_a_name_without_any_list_of_names_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidInput, match="the model holds no names") as caught:
        target(bench, **{"class": "zebra"}).run()
    assert caught.value.code == "classes-not-named"
    assert "'labels'" in caught.value.remedy


def test_a_file_of_other_classes_is_refused(bench: Bench) -> None:
    (bench.folder / "labels.txt").write_text("horse\nzebra\nmule\n")
    bench.document["labels"] = "labels.txt"
    with pytest.raises(InvalidInput, match=r"the names found are of 3; the output has 2 classes"):
        target(bench, **{"class": "zebra"}).run()


WORDS = {"type": "WordLevel", "vocab": {"horse": 0, "zebra": 1}}
PIECES = {"type": "Unigram", "vocab": [["horse", -1.0]]}
"""A tokenizer's own tokens, and those that were added to them."""


@pytest.mark.parametrize(
    ("model", "added"), [(WORDS, []), (PIECES, [{"id": 1, "content": "zebra"}]), (WORDS, [{"id": 0, "content": "<s>"}])]
)
def test_a_tokenizer_names_the_classes_of_a_language_model(
    bench: Bench, model: dict[str, Any], added: list[dict[str, Any]]
) -> None:
    (bench.folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": added}))
    bench.document["labels"] = "tokenizer.json"
    assert target(bench, **{"class": "zebra"}).run().tests == target(bench, index=1).run().tests


def test_a_model_may_have_more_classes_than_its_tokenizer_has_tokens(bench: Bench) -> None:
    few = {"type": "WordLevel", "vocab": {"zebra": 0}}
    (bench.folder / "tokenizer.json").write_text(json.dumps({"model": few}))
    bench.document["labels"] = "tokenizer.json"
    assert target(bench, **{"class": "zebra"}).run().tests == target(bench, index=0).run().tests
    few["vocab"] = {"zebra": 2}
    (bench.folder / "tokenizer.json").write_text(json.dumps({"model": few}))
    with pytest.raises(InvalidInput, match="the names found are of 3; the output has 2 classes"):
        target(bench, **{"class": "zebra"}).run()


NO_TOKENIZERS = (b'{"model": {}}', b'{"model": {"vocab": {"a": -1}}}', b'{"model": {"vocab": [1]}}')


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"{}", b"one\n\nthree", *NO_TOKENIZERS])
def test_an_unreadable_file_of_names_is_refused(bench: Bench, content: bytes) -> None:
    (bench.folder / "labels.txt").write_bytes(content)
    bench.document["labels"] = "labels.txt"
    with pytest.raises(InvalidInput, match="file of class names") as caught:
        bench.run()
    assert (caught.value.code, caught.value.pointer) == ("unreadable-labels", "/labels")


def head(bench: Bench, shape: list[int], *, squash: str | None = None) -> np.ndarray:
    """A model of one linear layer `scores` in this shape, perhaps squashed; its weights [4, numbers]."""
    weights = np.random.default_rng(1).normal(size=(4, int(np.prod(shape)))).astype(np.float32)
    weights[1] = 0
    nodes = [
        helper.make_node("Tanh", ["x"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "weights"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["scores"]),
        *([helper.make_node(squash, ["scores"], ["squashed"])] if squash else []),
    ]
    kept = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([-1, *shape]), "shape")]
    output = helper.make_tensor_value_info("squashed" if squash else "scores", TensorProto.FLOAT, [None, *shape])
    onnx.save(trees.model(nodes, [output], initializer=kept), bench.folder / "model.onnx")
    bench.document["layers"] = ["hidden"]
    return weights


def scores(bench: Bench, weights: np.ndarray, name: str, shape: list[int]) -> np.ndarray:
    return np.asarray((np.tanh(np.load(bench.folder / f"{name}.npy")) @ weights).reshape(-1, *shape))


def measured(report: Report) -> float:
    return report.interventions[0].effect.value


def test_several_sigmoids_each_decide_for_themselves(bench: Bench) -> None:
    weights = head(bench, [5], squash="Sigmoid")
    report = target(bench, index=3).run()
    before, after = (scores(bench, weights, name, [5])[:, 3] for name in ("base", "used"))
    assert measured(report) == pytest.approx((after - before).mean(), rel=1e-4)
    decisions = report.interventions[0].decisions
    assert decisions is not None
    assert decisions.flips_to == int(((before <= 0) & (after > 0)).sum())
    assert decisions.probability_with == pytest.approx((1 / (1 + np.exp(-after))).mean(), abs=1e-5)
    assert decisions.rank is None


def test_the_first_of_two_classes_behind_one_sigmoid_has_its_own_decisions(bench: Bench) -> None:
    weights = head(bench, [1])
    model = onnx.load(bench.folder / "model.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "one"))
    model.graph.node.extend(
        [
            helper.make_node("Sigmoid", ["scores"], ["p"]),
            helper.make_node("Sub", ["one", "p"], ["q"]),
            helper.make_node("Concat", ["q", "p"], ["both"], axis=1),
        ]
    )
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("both", TensorProto.FLOAT, [None, 2]))
    onnx.save(model, bench.folder / "model.onnx")
    before, after = (scores(bench, weights, name, [1])[:, 0] for name in ("base", "used"))
    decisions = target(bench, index=0).run().interventions[0].decisions
    assert decisions is not None
    assert decisions.probability_with == pytest.approx((1 / (1 + np.exp(after))).mean(), abs=1e-5)
    assert decisions.flips_to == int(((before >= 0) & (after < 0)).sum())


@pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
def test_a_detection_head_is_reduced_over_its_boxes(bench: Bench, reduce: str) -> None:
    """[classes, boxes], as detectors export it: the classes are on axis 1."""
    weights = head(bench, [3, 7])
    report = target(bench, index=2, class_axis=1, reduce=reduce).run()
    before, after = (getattr(scores(bench, weights, name, [3, 7])[:, 2], reduce)(1) for name in ("base", "used"))
    assert measured(report) == pytest.approx((after - before).mean(), rel=1e-4)


def test_probabilities_of_pixels_are_averaged_after_the_softmax(bench: Bench) -> None:
    weights = head(bench, [3, 7])
    report = target(bench, index=2, class_axis=1, reduce="mean", scale="probability").run()

    def value(name: str) -> np.ndarray:
        raised = np.exp(scores(bench, weights, name, [3, 7]))
        return np.asarray((raised / raised.sum(1, keepdims=True))[:, 2].mean(1))

    assert measured(report) == pytest.approx((value("used") - value("base")).mean(), rel=1e-3)
    assert report.plan.targets[0].mean == pytest.approx(value("targets").mean(), rel=1e-4)


def test_a_segmentation_head_is_reduced_over_its_pixels(bench: Bench) -> None:
    weights = head(bench, [3, 4, 5])
    report = target(bench, index=1, reduce="mean").run()
    before, after = (scores(bench, weights, name, [3, 4, 5])[:, 1].mean((1, 2)) for name in ("base", "used"))
    assert measured(report) == pytest.approx((after - before).mean(), rel=1e-4)


def test_an_axis_that_is_not_there_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidInput, match="has 2 axes, and none is number 3") as caught:
        target(bench, index=1, class_axis=3).run()
    assert caught.value.pointer == "/targets/first/class_axis"


def test_an_index_of_a_single_number_is_refused(bench: Bench) -> None:
    head(bench, [1])
    with pytest.raises(InvalidInput, match=r"asks for class 1, but output 'scores' is a single number. Leave 'index'"):
        target(bench, index=1).run()
