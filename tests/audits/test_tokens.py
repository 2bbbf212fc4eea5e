"""Targets and layers over the tokens of each text, or at the last one: padding must not change them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from caveat_spec.report import Report
from caveat_worker.engine.acting.monitor import Watched, monitoring_graph, score_name, sensitivity_name
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.session import open_session
from tests.audits.conftest import Bench

WORDS = ["[PAD]", "[UNK]", "he", "she", *(f"word{i}" for i in range(40))]
WIDTH, NEXT = 16, WORDS.index("word7")
Array = NDArray[Any]


def decoder(bench: Bench, *, mask: bool = True) -> None:
    """Embedding → causal attention → `state` → `logits` [N, T, words]: the next word after each.

    Nothing behind a token reaches it, so its scores do not depend on padding, whatever the mask.
    """
    rng = np.random.default_rng(2)
    weights = {
        "words": rng.normal(size=(len(WORDS), WIDTH)).astype(np.float32) / 2,
        **{name: rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 4 for name in ("wq", "wk", "wv", "wh")},
        "head": rng.normal(size=(WIDTH, len(WORDS))).astype(np.float32),
    }
    n = helper.make_node
    nodes = [
        n("Gather", ["words", "input_ids"], ["embedded"]),
        *(n("MatMul", ["embedded", f"w{name}"], [name]) for name in "qkv"),
        n("Attention", ["q", "k", "v"], ["mixed"], is_causal=1, q_num_heads=2, kv_num_heads=2),
        n("Add", ["embedded", "mixed"], ["state"]),
        n("MatMul", ["state", "wh"], ["before"]),
        n("Tanh", ["before"], ["hidden"]),
        n("MatMul", ["hidden", "head"], ["scores"]),
    ]
    names = ["input_ids", *(["attention_mask"] if mask else [])]
    if mask:  # which a causal model needs for texts that are padded in front alone
        nodes += [
            n("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
            n("Unsqueeze", ["real", "two"], ["each"]),
            n("Mul", ["scores", "each"], ["logits"]),
        ]
        weights["two"] = np.array([2])
    else:
        nodes.append(n("Identity", ["scores"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "T"]) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "T", len(WORDS)])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(model, bench.folder / "model.onnx")


@pytest.fixture
def texts(bench: Bench) -> Bench:
    """An audit of the next word after texts of one to five words, and what each of them is."""
    decoder(bench)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(bench.folder / "tokenizer.json"))
    rng = np.random.default_rng(4)
    drawn = [" ".join(f"word{i}" for i in rng.integers(0, 40, rng.integers(1, 5))) for _ in range(90)]

    def examples(name: str, first: str, which: slice) -> dict[str, object]:
        lines = [json.dumps({"text": f"{first} {text}".strip()}) for text in drawn[which]]
        (bench.folder / name).write_text("\n".join(lines))
        return {"text": name, "tokenizer": "tokenizer.json", "length": 6}

    bench.document |= {
        "examples": {
            "he": examples("he.jsonl", "he", slice(0, 40)),
            "she": {**examples("she.jsonl", "she", slice(0, 40)), "pairs_with": "he"},
            "others": examples("others.jsonl", "", slice(40, 90)),
        },
        "concepts": {"gender": {"examples": "she", "against": "he"}},
        "targets": {"next": {"index": NEXT, "reduce": "last", "examples": "others"}},
        "layers": ["state@last", "embedded@last", "state@mean"],
        "gate": [{"concept": "gender", "target": "next", "must": "not_matter", "tolerance": 0.1}],
    }
    return bench


def padded_to(bench: Bench, length: int) -> Bench:
    for examples in bench.document["examples"].values():
        examples["length"] = length
    return bench


def at_the_end(bench: Bench, name: str, tensor: str) -> Array:
    """A tensor [n, width] at the last word of each text, each run alone and without padding."""
    model = onnx.load(bench.folder / "model.onnx")
    model.graph.output.append(helper.make_tensor_value_info("state", TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = []
    for line in (bench.folder / f"{name}.jsonl").read_text().splitlines():
        ids = np.array([[WORDS.index(word) for word in json.loads(line)["text"].split()]])
        (value,) = session.run([tensor], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        found.append(value[0, -1])
    return np.array(found, dtype=float)


def test_what_is_measured_is_the_next_word_after_each_text(texts: Bench) -> None:
    report = texts.run()
    next_word = {name: at_the_end(texts, name, "logits")[:, NEXT] for name in ("he", "she", "others")}
    (intervention,) = report.interventions
    assert intervention.effect.value == pytest.approx((next_word["she"] - next_word["he"]).mean(), rel=1e-5)
    state = next(row for row in report.associations if row.layer == "state@last")
    step = at_the_end(texts, "she", "state").mean(0) - at_the_end(texts, "he", "state").mean(0)
    weights = {one.name: numpy_helper.to_array(one) for one in onnx.load(texts.folder / "model.onnx").graph.initializer}
    before = at_the_end(texts, "others", "state") @ weights["wh"].astype(float)
    towards = step @ weights["wh"]
    slopes = ((1 - np.tanh(before) ** 2) * towards) @ weights["head"][:, NEXT]
    assert state.effect.value == pytest.approx(slopes.mean(), rel=1e-3)
    assert state.finite_step is not None
    moved = (np.tanh(before + towards) - np.tanh(before)) @ weights["head"][:, NEXT]
    assert state.finite_step.value == pytest.approx(moved.mean(), rel=1e-3)
    (target,) = report.plan.targets
    assert "at the last token by 'attention_mask', " in target.sentence


@pytest.mark.parametrize(
    ("reduce", "scale"),
    [("last", "logit"), ("last", "log_probability"), ("mean", "logit"), ("mean", "probability"), ("sum", "logit"),
     ("max", "logit")],
)  # fmt: skip
def test_padding_changes_nothing(texts: Bench, reduce: str, scale: str) -> None:
    texts.document["targets"]["next"] |= {"scale": scale, "reduce": reduce}
    texts.document["layers"] = ["state@last", "embedded@mean", "hidden@max"]

    def figures(report: Report) -> list[float]:
        found = [report.interventions[0].effect.value]
        for row in report.associations:
            assert row.finite_step is not None
            found += [row.effect.value, row.finite_step.value, row.accuracy.held_out]
        return found

    short, long = (figures(padded_to(texts, length).run()) for length in (6, 11))
    assert len(short) == 10
    np.testing.assert_allclose(long, short, rtol=1e-4, atol=1e-6)


def test_a_monitoring_model_has_its_mean_over_the_same_tokens(texts: Bench) -> None:
    rng = np.random.default_rng(2)
    v = rng.normal(size=WIDTH)
    watched = Watched("gender", "state@mean", "state", "mean", v, 1.5, 0.25, 2.0)
    target = Target("next", index=NEXT, reduce="last")
    graph = monitoring_graph(load(texts.folder / "model.onnx"), [watched], [target])
    ids, mask = rng.integers(2, len(WORDS), (4, 7)), np.arange(7) < np.array([[3], [7], [1], [5]])
    found = open_session(graph, threads=1).run({"input_ids": ids, "attention_mask": mask.astype(np.int64)})
    model = onnx.load(texts.folder / "model.onnx")
    model.graph.output.append(helper.make_tensor_value_info("state", TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (state,) = session.run(["state"], {"input_ids": ids, "attention_mask": mask.astype(np.int64)})
    along = np.array([(example[marks] @ v).mean() for example, marks in zip(state, mask, strict=True)])
    np.testing.assert_allclose(found[score_name("gender", "state@mean")], (along - 0.25) / 2, rtol=1e-4)
    weights = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    ends = np.array([example[marks][-1] for example, marks in zip(state, mask, strict=True)])
    slopes = ((1 - np.tanh(ends @ weights["wh"]) ** 2) * (v @ weights["wh"])) @ weights["head"][:, NEXT]
    np.testing.assert_allclose(found[sensitivity_name("gender", "next", "state@mean")], slopes * 1.5, rtol=1e-3)


def test_arrays_of_a_model_without_a_mask_end_at_their_last_place(texts: Bench) -> None:
    decoder(texts, mask=False)
    rng = np.random.default_rng(1)
    ids = {name: rng.integers(4, len(WORDS), (count, 5)) for name, count in (("he", 40), ("she", 40), ("others", 50))}
    for position, name in enumerate(["he", "she"]):
        ids[name][:, 1:] = ids["he"][:, 1:]
        ids[name][:, 0] = 2 + position
    for name, values in ids.items():
        np.save(texts.folder / f"{name}.npy", values)
        pairs = {"pairs_with": "he"} if name == "she" else {}
        texts.document["examples"][name] = {"arrays": f"{name}.npy", **pairs}
    by_name = texts.run()
    texts.document["layers"] = ["state@token:4", "embedded@token:4", "state@mean"]
    by_number = texts.run()
    assert [row.effect.value for row in by_name.associations] == [row.effect.value for row in by_number.associations]
    assert "at the last place, " in by_name.plan.targets[0].sentence


def test_scores_of_the_last_place_alone_are_those(texts: Bench) -> None:
    """As some exports have them: [n, 1, classes]."""
    model = onnx.load(texts.folder / "model.onnx")
    model.graph.node.append(helper.make_node("Gather", ["logits", "end"], ["ends"], axis=1))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "end"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("ends", TensorProto.FLOAT, ["N", 1, len(WORDS)]))
    onnx.save(model, texts.folder / "model.onnx")
    rng = np.random.default_rng(1)
    for name, count in (("he", 40), ("she", 40), ("others", 50)):
        ids = rng.integers(4, len(WORDS), (count, 5))
        np.savez(texts.folder / f"{name}.npz", input_ids=ids, attention_mask=np.ones_like(ids))
        inputs = {one: one for one in ("input_ids", "attention_mask")}
        texts.document["examples"][name] = {"arrays": f"{name}.npz", "inputs": inputs}
    texts.document["layers"] = ["embedded@mean"]
    asked = texts.run()
    texts.document["targets"]["next"]["reduce"] = None
    assert [row.effect for row in texts.run().associations] == [row.effect for row in asked.associations]


def test_padded_texts_need_a_mask(texts: Bench) -> None:
    decoder(texts, mask=False)
    with pytest.raises(InvalidInput, match="no input that tells tokens from the padding") as caught:
        texts.run()
    assert caught.value.code == "no-mask"


def test_scores_of_classes_alone_have_no_last_token(texts: Bench) -> None:
    model = onnx.load(texts.folder / "model.onnx")
    model.graph.node.append(helper.make_node("ReduceMean", ["logits", "one"], ["mean"], keepdims=0))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["N", len(WORDS)]))
    onnx.save(model, texts.folder / "model.onnx")
    with pytest.raises(InvalidInput, match="its scores 'mean' have 2 axes") as caught:
        texts.run()
    assert caught.value.pointer == "/targets/next/reduce"


def test_which_of_two_masks_is_asked_back(texts: Bench) -> None:
    model = onnx.load(texts.folder / "model.onnx")
    model.graph.input.append(helper.make_tensor_value_info("encoder_mask", TensorProto.INT64, ["N", "T"]))
    onnx.save(model, texts.folder / "model.onnx")
    for examples in texts.document["examples"].values():
        examples["inputs"] = {"input_ids": "ids", "attention_mask": "mask", "encoder_mask": "mask"}
    with pytest.raises(InvalidInput, match="several masks: attention_mask, encoder_mask") as caught:
        texts.run()
    assert caught.value.pointer == "/targets/next/reduce"


def test_an_explanation_by_a_concept_has_its_mean_over_the_same_tokens(texts: Bench) -> None:
    element = {"concept": "gender", "layer": "embedded", "reduce": "mean"}
    texts.document |= {"test_concepts": False, "gate": [], "integrity": {"sanity": "none"}}
    texts.document["explain"] = {
        "where": {
            "of": "next",
            "examples": {"set": "she", "pick": ["line 1", "line 6", "line 9"]},
            "show": [{"cav_attribution": element}, {"concept_score": {**element, "icons": "others"}}],
        }
    }

    def figures(report: Report) -> list[float]:
        found = []
        (one,) = report.explanations
        for panel in one.panels:
            parts, score = panel.figures
            assert parts.total == pytest.approx(score.atoms[0].value, rel=1e-5)
            assert score.icons is not None
            found += [parts.total, *(atom.value for atom in parts.atoms[:2])]
            found += [icon.value for icon in score.icons.spectra[0].icons]
        return found

    short, long = (figures(padded_to(texts, length).run()) for length in (6, 11))
    assert len(short) > 3 * 3
    np.testing.assert_allclose(long, short, rtol=1e-4, atol=1e-6)
