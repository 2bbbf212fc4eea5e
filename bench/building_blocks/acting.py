"""Versions compared, directions removed, and models that give concept scores beside their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

from bench.building_blocks.photographs import pictures
from bench.measure import timed
from bench.rows import Row, at_least, at_most
from caveat_worker.engine.acting.edit import ScaledDirections, edited
from caveat_worker.engine.acting.monitor import Watched, monitoring_graph, score_name, sensitivity_name
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.onnx.session import open_session
from caveat_worker.engine.versions.alignment import by_channel, debiased_cka, match_channels


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
    passes: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain.run(None, {"image": x}),
        "scores": lambda: scores.run({"image": x}),
        "one class": lambda: session.run({"image": x}),
        "three classes": lambda: three_classes.run({"image": x}),
        "apart": lambda: (plain.run(None, {"image": x}), runs.gradient(x, "fire8")),
    }
    spent = {name: list[float]() for name in passes}
    for _ in range(16):
        for name, call in passes.items():
            timed(spent[name], call)
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
