"""A decoder in the form of ONNX Runtime's own exporter: grouped queries, caches, and lengths from a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from caveat_worker.engine.autodiff.differentiate import expose
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.session import open_session

WORDS, WIDTH, HEADS, KEYS, TOKENS = 40, 64, 4, 2, 12
HEAD = WIDTH // HEADS
MASK = np.ones((3, TOKENS), np.int64)
MASK[1, 8:] = MASK[2, 5:] = 0
FEEDS: dict[str, NDArray[Any]] = {
    "input_ids": np.random.default_rng(1).integers(0, WORDS, (3, TOKENS)),
    "attention_mask": MASK,
}


def decoder(**options: Any) -> bytes:
    """Two blocks over words: `logits` [batch, sequence, words], and a cache of keys and of values for each block."""
    rng, nodes = np.random.default_rng(0), []
    angles = np.arange(TOKENS)[:, None] / 100 ** (np.arange(HEAD // 2) / (HEAD // 2))
    packed = WIDTH + 2 * KEYS * HEAD
    held: dict[str, NDArray[Any]] = {
        "words": rng.normal(size=(WORDS, WIDTH)),
        "head": rng.normal(size=(WIDTH, WORDS)) / 8,
        "scale": np.ones(WIDTH),
        "cosines": np.cos(angles),
        "sines": np.sin(angles),
        **{f"qkv{block}": rng.normal(size=(WIDTH, packed)) / 8 for block in range(2)},
        **{f"out{block}": rng.normal(size=(WIDTH, WIDTH)) / 8 for block in range(2)},
    }
    weights = {name: value.astype(np.float32) for name, value in held.items()}
    weights |= {"one": np.int64([1]), "place": np.int64(1)}

    def op(kind: str, *inputs: str, outputs: str, domain: str = "", **attributes: Any) -> None:
        nodes.append(helper.make_node(kind, inputs, outputs.split(), domain=domain, **attributes))

    op("ReduceSum", "attention_mask", "one", outputs="sums", keepdims=0)
    op("Sub", "sums", "one", outputs="last")
    op("Cast", "last", outputs="lengths", to=TensorProto.INT32)
    op("Shape", "attention_mask", outputs="shape")
    op("Gather", "shape", "place", outputs="length")
    op("Cast", "length", outputs="total", to=TensorProto.INT32)
    op("Gather", "words", "input_ids", outputs="x0")
    settings = {"num_heads": HEADS, "kv_num_heads": KEYS, "do_rotary": 1} | options
    for block in range(2):
        past, present = (f"{when}.{block}" for when in ("past_key_values", "present"))
        op("SimplifiedLayerNormalization", f"x{block}", "scale", outputs=f"normal{block}", epsilon=1e-5)
        op("MatMul", f"normal{block}", f"qkv{block}", outputs=f"packed{block}")
        before = [f"packed{block}", "", "", f"{past}.key", f"{past}.value", "lengths", "total", "cosines", "sines"]
        after = f"mixed{block} {present}.key {present}.value"
        op("GroupQueryAttention", *before, outputs=after, domain="com.microsoft", **settings)
        op("MatMul", f"mixed{block}", f"out{block}", outputs=f"turned{block}")
        op("Add", f"x{block}", f"turned{block}", outputs=f"x{block + 1}")
    op("MatMul", "x2", "head", outputs="logits")
    caches = [f"{block}.{kind}" for block in range(2) for kind in ("key", "value")]

    def info(name: str, kind: int, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        "decoder",
        [
            info("input_ids", TensorProto.INT64, "batch", "sequence"),
            info("attention_mask", TensorProto.INT64, "batch", "total"),
            *(info(f"past_key_values.{one}", TensorProto.FLOAT, "batch", KEYS, "past", HEAD) for one in caches),
        ],
        [
            info("logits", TensorProto.FLOAT, "batch", "sequence", WORDS),
            *(info(f"present.{one}", TensorProto.FLOAT, "batch", KEYS, "total", HEAD) for one in caches),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def opened(content: bytes) -> Model:
    return load(content, constants={}, fed=tuple(FEEDS))


@pytest.mark.parametrize(
    "options", [{}, {"local_window_size": 3}, {"softcap": 2.0}, {"rotary_interleaved": 1}, {"do_rotary": 0}], ids=str
)
def test_its_scores_are_the_runtimes_as_far_as_each_text_goes(options: dict[str, Any]) -> None:
    content = decoder(**options)
    model = opened(content)
    session = InferenceSession(content, providers=["CPUExecutionProvider"])
    none = np.zeros((3, KEYS, 0, HEAD), np.float32)
    pasts = {one.name: none for one in session.get_inputs() if one.name not in FEEDS}
    (expected,) = session.run(["logits"], FEEDS | pasts)
    found = open_session(expose(model, ["logits"])).run(FEEDS)["logits"]
    shown = MASK.astype(bool)
    np.testing.assert_allclose(found[shown], expected[shown], rtol=1e-4, atol=1e-5)
    assert np.isfinite(found).all()


def test_gradients_reach_the_words_and_agree_with_differences() -> None:
    model = opened(decoder())
    target = Target("t", index=3, reduce="mean")
    assert resolve_target(model, target).tensor == "logits"
    states = {state.tensor: state for state in list_layers(model, target)}
    layers = ["x0", "normal0", "packed0", "mixed0", "x1", "packed1", "mixed1", "turned1"]
    assert all(states[layer].auditable for layer in layers)
    checks = check_gradients(model, layers, [target], FEEDS, seed=0)
    assert all(check.ok for check in checks), [check.explain(0.02) for check in checks]


def test_what_a_cache_becomes_is_no_output_but_a_tensor() -> None:
    model = opened(decoder())
    assert [one.name for one in model.inputs] == [*FEEDS]
    assert [one.name for one in model.outputs] == ["logits"]
    keys = open_session(expose(model, ["present.1.key"])).run(FEEDS)["present.1.key"]
    assert keys.shape == (3, KEYS, TOKENS, HEAD)


def test_with_a_past_that_examples_feed_it_stays_and_is_named() -> None:
    fed = [f"past_key_values.{block}.{kind}" for block in range(2) for kind in ("key", "value")]
    model = load(decoder(), constants={}, fed=(*FEEDS, *fed))
    (state,) = (one for one in list_layers(model, Target("t", "logits", 3, reduce="mean")) if one.tensor == "x0")
    assert not state.auditable
    assert "GroupQueryAttention" in str(state.reason)


def test_an_attention_that_is_not_known_is_named() -> None:
    model = opened(decoder(smooth_softmax=1))
    with pytest.raises(InvalidInput, match="GroupQueryAttention"):
        check_gradients(model, ["x0"], [Target("t", index=3, reduce="mean")], FEEDS, seed=0)
