"""A small transformer, its texts and tokenizer: pronouns that it reads, and a word that it does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from caveat_worker.engine.base.errors import InvalidInput
from tests.audits.conftest import Bench

WORDS = ["[PAD]", "[UNK]", "he", "she", "today", "now", *(f"word{i}" for i in range(40))]
WIDTH, LENGTH = 16, 6


def transformer(path: Path) -> None:
    """Embedding → one attention layer with a mask → `state` [N, T, 16] → mean over the mask → tanh → one logit."""
    rng = np.random.default_rng(2)
    embedding = rng.normal(size=(len(WORDS), WIDTH)).astype(np.float32) / 2
    embedding[WORDS.index("now")] = embedding[WORDS.index("today")]
    weights = {
        "embedding": embedding,
        **{name: rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 4 for name in ("wq", "wk", "wv", "wh")},
        "wo": rng.normal(size=(WIDTH, 1)).astype(np.float32),
        "large": np.array(-1e4, np.float32),
        "one": np.array(1, np.float32),
        "axis1": np.array([1]),
        "axis2": np.array([2]),
    }
    n = helper.make_node
    nodes = [
        n("Gather", ["embedding", "input_ids"], ["embedded"]),
        n("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        n("MatMul", ["embedded", "wq"], ["q"]),
        n("MatMul", ["embedded", "wk"], ["k"]),
        n("MatMul", ["embedded", "wv"], ["v"]),
        n("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        n("MatMul", ["q", "kt"], ["scores"]),
        n("Sub", ["one", "mask"], ["hidden_mask"]),
        n("Mul", ["hidden_mask", "large"], ["penalty"]),
        n("Unsqueeze", ["penalty", "axis1"], ["penalties"]),
        n("Add", ["scores", "penalties"], ["masked"]),
        n("Softmax", ["masked"], ["attention"], axis=-1),
        n("MatMul", ["attention", "v"], ["mixed"]),
        n("Add", ["embedded", "mixed"], ["state"]),
        n("Unsqueeze", ["mask", "axis2"], ["mask3"]),
        n("Mul", ["state", "mask3"], ["kept"]),
        n("ReduceSum", ["kept", "axis1"], ["summed"], keepdims=0),
        n("ReduceSum", ["mask", "axis1"], ["count"], keepdims=1),
        n("Div", ["summed", "count"], ["pooled"]),
        n("MatMul", ["pooled", "wh"], ["before"]),
        n("Tanh", ["before"], ["hidden"]),
        n("MatMul", ["hidden", "wo"], ["logit"]),
    ]
    inputs = [helper.make_tensor_value_info(x, TensorProto.INT64, ["N", "T"]) for x in ("input_ids", "attention_mask")]
    graph = helper.make_graph(
        nodes,
        "small",
        inputs,
        [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.fixture
def words(bench: Bench) -> Bench:
    return words_in(bench)


def words_in(bench: Bench) -> Bench:
    transformer(bench.folder / "model.onnx")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(bench.folder / "tokenizer.json"))
    rng = np.random.default_rng(4)
    sentences = [" ".join(f"word{i}" for i in rng.integers(0, 40, 3)) for _ in range(90)]

    def examples(name: str, first: str, which: slice) -> dict[str, object]:
        lines = [json.dumps({"text": f"{first} {sentence}".strip()}) for sentence in sentences[which]]
        (bench.folder / name).write_text("\n".join(lines))
        return {"text": name, "tokenizer": "tokenizer.json", "length": LENGTH}

    concept, line = slice(0, 40), {"target": "answer", "must": "not_matter", "tolerance": 0.1}
    bench.document |= {
        "examples": {
            "he": examples("he.jsonl", "he", concept),
            "she": {**examples("she.jsonl", "she", concept), "pairs_with": "he"},
            "today": examples("today.jsonl", "today", concept),
            "now": {**examples("now.jsonl", "now", concept), "pairs_with": "today"},
            "others": examples("others.jsonl", "", slice(40, 90)),
        },
        "concepts": {"gender": {"examples": "she", "against": "he"}, "time": {"examples": "now", "against": "today"}},
        "targets": {"answer": {"examples": "others"}},
        "layers": ["state@mean", "state@token:0"],
        "gate": [{"concept": "gender", **line}],
    }
    return bench


def test_a_transformer_is_audited_at_its_mean_and_at_a_token(words: Bench) -> None:
    del words.document["concepts"]["time"], words.document["examples"]["now"], words.document["examples"]["today"]
    words.document["gate"][0]["tolerance"] = 0.08
    report = words.run()
    change = report.interventions[0].effect.value
    assert abs(change) > 0.05
    assert report.verdict.lines[0].finding == "influential"
    mean = next(row for row in report.associations if row.layer == "state@mean")
    assert np.sign(mean.effect.value) == np.sign(change)
    assert {layer.features for layer in report.plan.layers} == {WIDTH}


@pytest.mark.parametrize("pictures", ["full", "ids"])
def test_the_words_that_differ_in_a_pair_are_shown_where_the_audit_shows_examples(words: Bench, pictures: str) -> None:
    words.document["method"]["pictures"] = pictures
    gender, _ = words.run().pairs
    assert (gender.concept, gender.without, gender.with_concept, gender.count) == ("gender", "he", "she", 40)
    assert [one.without for one in gender.shown] == ["line 1", "line 14", "line 27", "line 40"]
    told = [(each.without, each.with_concept) for one in gender.shown for each in one.differences]
    assert told == ([("he", "she")] * 4 if pictures == "full" else [])


def test_twins_that_the_model_cannot_tell_apart_make_no_direction(words: Bench) -> None:
    del words.document["concepts"]["gender"]
    words.document["gate"] = [{"concept": "time", "target": "answer", "must": "not_matter", "tolerance": 0.2}]
    report = words.run()
    assert report.interventions[0].effect.value == 0
    assert all(not row.accuracy.encoded for row in report.associations)
    assert report.verdict.lines[0].finding == "not_influential", "the measured change decides"


def test_an_input_that_nothing_feeds_is_named(words: Bench) -> None:
    words.document["examples"]["others"]["inputs"] = {"input_ids": "ids"}
    with pytest.raises(InvalidInput, match="nothing to the model's input 'attention_mask'") as caught:
        words.run()
    assert caught.value.pointer == "/examples/others"


def test_an_array_cannot_feed_two_inputs(words: Bench) -> None:
    words.save("ids.npy", np.zeros((30, LENGTH)))
    words.document["examples"]["others"] = {"arrays": "ids.npy"}
    with pytest.raises(InvalidInput, match="feeds one input, and the model has 2: 'input_ids', 'attention_mask'"):
        words.run()


def test_integers_are_no_layer(words: Bench) -> None:
    words.document["layers"] = ["input_ids"]
    with pytest.raises(InvalidInput, match="input_ids"):
        words.run()


def test_scores_of_tokens_are_reduced_as_declared(words: Bench) -> None:
    words.document["targets"]["answer"] = {"output": "state", "index": 3, "reduce": "mean", "examples": "others"}
    words.document["layers"] = ["embedded@mean"]
    report = words.run()
    assert "state" in report.plan.targets[0].sentence
    assert report.associations[0].n_target == 50
    words.document["targets"]["answer"]["reduce"] = None
    with pytest.raises(InvalidInput, match="mean, sum, max, or last") as caught:
        words.run()
    assert caught.value.pointer == "/targets/answer/reduce"
