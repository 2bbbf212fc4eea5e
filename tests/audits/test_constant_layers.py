"""Audits of a model one of whose layers is the same at all examples of the concepts, and not at the targets."""

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


@pytest.fixture
def dead(bench: Bench) -> Bench:
    """The small audit with a layer `cut` that is over zero for large examples alone, and small ones in the concepts."""
    model = onnx.load(bench.folder / "model.onnx")
    nodes = {node.output[0]: node for node in model.graph.node}
    nodes["z2"].input[0] = "cut"
    cut = [
        helper.make_node("MatMul", ["hidden1", "same"], ["again"]),
        helper.make_node("Sub", ["again", "most"], ["below"]),
        helper.make_node("Relu", ["below"], ["cut"]),
    ]
    before = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*before[:2], *cut, *before[2:]])
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.eye(9, dtype=np.float32), "same"), numpy_helper.from_array(np.float32(0.9), "most")]
    )
    onnx.save(model, bench.folder / "model.onnx")
    for name in ("base", "used", "ignored"):
        bench.save(f"{name}.npy", 0.1 * np.load(bench.folder / f"{name}.npy"))
    bench.save("targets.npy", 5 * np.load(bench.folder / "targets.npy"))
    bench.document["layers"] = "auto"
    return bench


def test_a_chosen_layer_that_is_constant_is_left_out_with_a_warning(dead: Bench) -> None:
    report = dead.run()
    assert [layer.tensor for layer in report.plan.layers] == ["hidden1"]
    assert {test.layer for test in report.associations} == {"hidden1"}
    assert {check.layer for check in report.plan.gradient_checks} == {"hidden1"}
    (warning,) = [sentence for sentence in report.warnings if "left out" in sentence]
    assert warning == (
        "Layer 'cut' was chosen by `layers: auto` and left out. It is the same at all 80 examples of 'used' and of its "
        "reference set, so that no direction in it can mean anything."
    )


def test_the_cache_and_shards_leave_the_same_layer_out(
    dead: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "LARGEST_BATCH", 16)
    plain = canonical(dead.run(store=partial(cached, tmp_path / "nothing", tmp_path / "kept")))
    assert canonical(dead.run(store=partial(cached, tmp_path / "kept", tmp_path / "fresh"))) == plain
    pieces = run_parts(dead, divided(dead, 4), dead.folder)
    assert canonical(dead.run(store=partial(together, pieces))) == plain


def test_a_layer_that_was_asked_for_is_refused(dead: Bench) -> None:
    dead.document["layers"] = ["hidden1", "cut"]
    with pytest.raises(InvalidInput, match=r"Layer 'cut' cannot be audited\. It is the same at all 80") as caught:
        dead.run()
    assert (caught.value.code, caught.value.pointer) == ("layer-constant", "/layers")
    assert "layers: auto" in caught.value.remedy


def test_an_audit_whose_layers_are_all_constant_is_refused(dead: Bench) -> None:
    for name in ("base", "used", "ignored"):
        dead.save(f"{name}.npy", np.ones((40, 4)))
    with pytest.raises(InvalidInput, match=r"Layer 'hidden1' cannot be audited\. It is the same at all 80") as caught:
        dead.run()
    assert caught.value.remedy == "Name other layers (`caveat layers` lists them)."


def test_rounding_is_no_variation(dead: Bench) -> None:
    rng = np.random.default_rng(0)
    for name in ("base", "used", "ignored"):
        dead.save(f"{name}.npy", 1 + 1e-7 * rng.normal(size=(40, 4)))
    with pytest.raises(InvalidInput, match="Layer 'hidden1' cannot be audited"):
        dead.run()
