"""Audits of a model whose gradient is wrong at one layer: fine stairs, which have no slope anywhere and yet rise."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from caveat_reports.canonical import canonical
from caveat_worker.array_stores import cached
from caveat_worker.engine.activations import batches
from caveat_worker.engine.base.errors import InvalidInput
from tests.audits.conftest import Bench
from tests.audits.test_shards import divided, run_parts, together

STAIRS = 1e5


@pytest.fixture
def rounded(bench: Bench) -> Bench:
    """The small audit, with the first layer rounded to five digits on its way to the second one."""
    model = onnx.load(bench.folder / "model.onnx")
    nodes = {node.output[0]: node for node in model.graph.node}
    nodes["z2"].input[0] = "rounded"
    stairs = [
        helper.make_node("Mul", ["hidden1", "stairs"], ["many"]),
        helper.make_node("Floor", ["many"], ["whole"]),
        helper.make_node("Div", ["whole", "stairs"], ["stepped"]),
        helper.make_node("Add", ["stepped", "hidden1"], ["rounded"]),
    ]
    before = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*before[:2], *stairs, *before[2:]])
    model.graph.initializer.append(numpy_helper.from_array(np.float32(STAIRS), "stairs"))
    onnx.save(model, bench.folder / "model.onnx")
    bench.document["layers"] = "auto"
    return bench


def test_a_chosen_layer_whose_gradient_is_wrong_is_left_out_with_a_warning(rounded: Bench) -> None:
    report = rounded.run()
    assert [layer.tensor for layer in report.plan.layers] == ["rounded"]
    assert {test.layer for test in report.associations} == {"rounded"}
    assert {check.layer for check in report.plan.gradient_checks} == {"rounded"}
    (warning,) = [sentence for sentence in report.warnings if "left out" in sentence]
    assert warning.startswith("Layer 'hidden1' was chosen by `layers: auto` and left out. The gradient of 'first'")
    assert "tolerance 0.01" in warning


def test_the_cache_keeps_that_a_layer_was_left_out(rounded: Bench, tmp_path: Path) -> None:
    store = partial(cached, tmp_path / "nothing", tmp_path / "kept")
    first = rounded.run(store=store)
    again = rounded.run(store=partial(cached, tmp_path / "kept", tmp_path / "fresh"))
    assert canonical(first) == canonical(again)


def test_a_layer_that_was_asked_for_is_refused_with_the_figure(rounded: Bench) -> None:
    rounded.document["layers"] = ["hidden1", "hidden2"]
    with pytest.raises(
        InvalidInput, match=r"at layer 'hidden1' does not add up .* differ by 0\.\d+ of its size"
    ) as caught:
        rounded.run()
    assert (caught.value.code, caught.value.pointer) == ("gradient-check-failed", "/layers")
    assert "layers: auto" in caught.value.remedy


def test_an_audit_without_any_right_layer_is_refused(rounded: Bench) -> None:
    rounded.document["method"]["gradient_tolerance"] = 1e-12
    with pytest.raises(InvalidInput, match="Every layer that `layers: auto` chose fails"):
        rounded.run()


def test_shards_leave_the_same_layer_out(rounded: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "LARGEST_BATCH", 16)
    plain = canonical(rounded.run())
    pieces = run_parts(rounded, divided(rounded, 4), rounded.folder)
    assert canonical(rounded.run(store=partial(together, pieces))) == plain
