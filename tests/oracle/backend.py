"""ONNX's own backend node cases, each differentiated and compared with finite differences."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from caveat_worker.engine.autodiff.rules import DEFINED, LOWERED, UNDIFFERENTIABLE, VJP
from caveat_worker.engine.base.errors import InvalidInput
from tests.engine.oracles import NotDifferentiated, cotangents_of, pulled_back, run

Array = np.ndarray[Any, Any]
_FIRST_ALONE = {"LayerNormalization"}  # its mean and deviation are by-products
_CELLS = {"GRU", "LSTM", "RNN"}


@dataclass(frozen=True)
class Case:
    """A node case: the model with every input that is not of float type turned into a constant, and values."""

    name: str
    operator: tuple[str, str]
    model: onnx.ModelProto
    feeds: dict[str, Array]


@dataclass(frozen=True)
class Verdict:
    """`passed`, `unsupported` (with the reason), `unjudged` (no oracle runs it) or `wrong`."""

    case: str
    outcome: str
    reason: str = ""


def cases() -> Iterator[Case]:
    """The cases of operators that a gradient can pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collected = collect_testcases(None)
    for case in collected:
        if case.model is None or case.kind != "node" or not case.data_sets:
            continue
        nodes = case.model.graph.node
        operator = (
            nodes[0].domain.replace("ai.onnx", "") if nodes[0].domain == "ai.onnx" else nodes[0].domain,
            nodes[0].op_type,
        )
        known = {*VJP, *LOWERED, *(("", name) for name in DEFINED)}
        if not any((n.domain, n.op_type) in known for n in nodes) or operator in UNDIFFERENTIABLE:
            continue
        inputs, _ = case.data_sets[0]
        if not all(isinstance(x, np.ndarray) for x in inputs):
            continue
        prepared = _with_constants(case, operator, [np.asarray(x) for x in inputs])
        if prepared is not None:
            yield Case(case.name, operator, *prepared)


def _with_constants(
    case: Any, operator: tuple[str, str], inputs: list[Array]
) -> tuple[onnx.ModelProto, dict[str, Array]] | None:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    kept, feeds = [], {}
    jitter = np.random.default_rng(3)
    for i, (info, x) in enumerate(zip(case.model.graph.input, inputs, strict=False)):
        weights = operator[1] in _CELLS and i in (1, 2, 3)  # of a cell, which are constants in every model
        if x.dtype in (np.float32, np.float64) and x.size and not weights:
            kept.append(info)
            feeds[info.name] = (x + 0.01 * jitter.standard_normal(x.shape)).astype(x.dtype)
        else:
            model.graph.initializer.append(numpy_helper.from_array(x, info.name))
    floats = {TensorProto.FLOAT, TensorProto.DOUBLE}
    if not feeds or not any(o.type.tensor_type.elem_type in floats for o in model.graph.output):
        return None
    if operator[1] in _FIRST_ALONE:
        del model.graph.output[1:]
        del model.graph.node[0].output[1:]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 8)
    return model, feeds


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float64 in the place of float32."""
    double = onnx.ModelProto()
    double.CopyFrom(model)
    for tensor in double.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for info in (*double.graph.input, *double.graph.output):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in double.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    return double


def judge(case: Case) -> Verdict:
    """Judges a case in float64 by the reference evaluator, or in float32 by ONNX Runtime if that has no float64."""
    reasons = []
    for runtime, model, dtype in (
        ("reference", in_double(case.model), np.float64),
        ("onnxruntime", case.model, np.float32),
    ):
        try:
            ratio = _disagreement(runtime, model, {k: v.astype(dtype) for k, v in case.feeds.items()})
        except NotDifferentiated as why:
            return Verdict(case.name, "unsupported", str(why))
        except InvalidInput as why:
            return Verdict(case.name, "unsupported", why.sentence)
        except Exception as why:  # runtimes share no base class of exceptions
            reasons.append(
                f"{runtime}: {str(why).strip().splitlines()[0][:120] if str(why).strip() else type(why).__name__}"
            )
            continue
        if ratio is None:
            return Verdict(case.name, "unjudged", "no gradient reaches a float input")
        if ratio < (1e-4 if dtype == np.float64 else 2e-2):
            return Verdict(case.name, "passed", runtime)
        reasons.append(f"{runtime}: differs by {ratio:.1e}")
    outcome = "wrong" if any("differs" in reason for reason in reasons) else "unjudged"
    return Verdict(case.name, outcome, "; ".join(reasons))


def _disagreement(runtime: str, model: onnx.ModelProto, feeds: dict[str, Array]) -> float | None:
    """The median over directions of |measured - expected|, relative to their size; the worst input counts."""
    rng = np.random.default_rng(5)
    graph = pulled_back(model).to_proto()
    forward = run(runtime, model, feeds)
    g = cotangents_of(forward, rng)
    gradients = run(runtime, graph, {**feeds, **g})
    names = list(forward)
    worst = None
    for name, x in feeds.items():
        if f"d/{name}" not in gradients:
            continue
        ratios = []
        for step in (1e-6,) if x.dtype == np.float64 else (1e-2, 1e-3, 1e-4):
            found = []
            for _ in range(5):
                u = rng.standard_normal(x.shape).astype(x.dtype)
                above, below = (run(runtime, model, {**feeds, name: x + x.dtype.type(s) * u}) for s in (step, -step))
                rises = [g[f"g{i}"] * (above[y] - below[y]) for i, y in enumerate(names) if f"g{i}" in g]
                measured = sum(float(np.sum(rise, dtype=np.float64)) for rise in rises) / (2 * step)
                expected = float(np.sum(gradients[f"d/{name}"] * u, dtype=np.float64))
                scale = max(abs(measured), abs(expected), float(np.linalg.norm(gradients[f"d/{name}"])), 1e-3)
                found.append(abs(measured - expected) / scale)
            ratios.append(float(np.median(found)))
        worst = max(worst or 0.0, min(ratios))
    return worst
