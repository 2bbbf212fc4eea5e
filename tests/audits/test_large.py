"""Audits of models whose large weights stay in their file: the same figures, from fewer and larger batches."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.decoder import write_decoder
from bench.measure import held_bytes, peak_memory
from caveat.pack import chunks, content_of
from caveat_spec.audit import Audit
from caveat_spec.report import Report
from caveat_worker import pipeline
from caveat_worker.array_stores import scratch
from caveat_worker.engine.activations import array_keys, batches
from caveat_worker.engine.activations.batches import batch_size, side_by_side
from caveat_worker.engine.activations.requirements import Plan
from caveat_worker.engine.autodiff.differentiate import differentiate, expose
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.segments import Rows
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.concepts import activation_intervention
from caveat_worker.engine.onnx import stored_weights
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.onnx.session import Session, open_session

ROOT = Path(__file__).parents[2]
WORDS, TOKENS, BLOCKS = 200, 6, 2


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treats matrices of a few kilobytes as large."""
    monkeypatch.setattr(stored_weights, "LEAST", 1 << 12)
    monkeypatch.setattr(stored_weights, "LEAST_TOGETHER", 1 << 12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_decoder(tmp_path / "decoder.onnx", blocks=BLOCKS, width=64, words=WORDS, head=16)
    with (tmp_path / "model.onnx").open("wb") as bundle:
        bundle.writelines(chunks(content_of(tmp_path / "decoder.onnx")))
    rng = np.random.default_rng(0)
    for name in ("concept", "reference", "targets"):
        ids = rng.integers(WORDS, size=(20, TOKENS))
        if name == "concept":
            ids[:, :2] = 7
        np.save(tmp_path / f"{name}.npy", ids)
    return tmp_path


def asked(folder: Path, *layers: str) -> tuple[Audit, dict[str, Path]]:
    """An audit of the decoder, and its files by digest."""
    names = ("concept", "reference", "targets")
    audit = Audit.model_validate(
        {
            "model": "model.onnx",
            "examples": {name: {"arrays": f"{name}.npy"} for name in names},
            "concepts": {"word": {"examples": "concept", "against": "reference"}},
            "targets": {"next": {"index": 3, "reduce": "mean", "examples": "targets"}},
            "layers": [*layers] or ["block1", "last.normal@mean"],
            "method": {"gradient_tolerance": 0.05, "runs": 20, "permutations": 19},
        }
    )
    digests = {at: hashlib.sha256((folder / source).read_bytes()).hexdigest() for at, source in audit.sources().items()}
    found = {f"sha256:{digests[at]}": folder / source for at, source in audit.sources().items()}
    return audit.with_sources({at: f"sha256:{digest}" for at, digest in digests.items()}), found


def audited(folder: Path, *layers: str) -> Report:
    audit, files = asked(folder, *layers)
    return pipeline.run(audit, files.__getitem__, lambda _stage, _progress: None, threads=2)


def planned(folder: Path) -> Plan:
    audit, files = asked(folder)
    with scratch() as kept:
        return pipeline.prepare(audit, files.__getitem__, lambda _stage, _progress: None, kept).plan


def numbers(document: Any) -> list[float]:
    """Every number of a document, in its order."""
    if isinstance(document, dict):
        return [number for key, one in document.items() if key != "gradient_checks" for number in numbers(one)]
    if isinstance(document, list):
        return [number for one in document for number in numbers(one)]
    return [float(document)] if isinstance(document, int | float) else []


def test_figures_are_those_of_a_copy_in_memory(folder: Path, request: pytest.FixtureRequest) -> None:
    copied = audited(folder).model_dump(mode="json")
    request.getfixturevalue("large")
    kept = audited(folder).model_dump(mode="json")
    assert planned(folder).model.weights_in_file
    found, expected = numbers(kept["tests"]), numbers(copied["tests"])
    assert len(found) == len(expected) > 20
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("large")
def test_one_batch_at_a_time_has_all_cores_and_the_memory_of_two(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(folder)
    needs = plan.needs["targets"], plan.needs["reference"]
    assert side_by_side(plan, 3, "cpu") == (1, 3)
    monkeypatch.setattr(batches, "BATCH_BYTES", 1 << 19)
    large = [batch_size(plan, need) for need in needs]
    monkeypatch.setattr(type(plan.model), "weights_in_file", False)
    assert side_by_side(plan, 3, "cpu") == (3, 1)
    usual = [batch_size(plan, need) for need in needs]
    assert large[1] == pytest.approx(2 * usual[1], abs=1)
    assert large[0] > 2 * usual[0]  # a backward pass holds nothing from before its first layer


def test_a_batch_is_as_large_as_its_texts_allow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_BYTES", 1 << 23)
    short = planned(folder)
    for name in ("concept", "reference", "targets"):
        np.save(folder / f"{name}.npy", np.zeros((20, 10 * TOKENS), np.int64) + np.arange(20)[:, None])
    longer = planned(folder)
    assert (short.lengths["sequence"], longer.lengths["sequence"]) == (TOKENS, 10 * TOKENS)
    sizes = [batch_size(plan, plan.needs["reference"]) for plan in (short, longer)]
    assert sizes[0] == pytest.approx(10 * sizes[1], rel=0.2)


def test_directions_that_share_runs_give_the_same_check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(folder / "model.onnx")
    feeds = {"input_ids": np.load(folder / "targets.npy")[:4]}
    target = Target("next", index=3, reduce="mean")
    sizes: list[int] = []
    run = Session.run

    def counted(self: Session, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes.append(len(next(iter(feeds.values()))))
        return run(self, feeds)

    monkeypatch.setattr(Session, "run", counted)
    (alone,) = check_gradients(model, ["block1"], [target], feeds, seed=0)
    assert set(sizes) == {4}
    before = len(sizes)
    (shared,) = check_gradients(model, ["block1"], [target], feeds, seed=0, rows=Rows(forward=24, backward=3))
    assert {24, 3} <= set(sizes[before:])
    assert shared.ok
    assert alone.ok
    assert shared.step == alone.step
    assert shared.residual == pytest.approx(alone.residual, rel=0.2)  # itself mostly rounding
    assert shared.cosine == pytest.approx(alone.cosine, abs=1e-4)


def print_memory_of_a_run(model: str) -> None:
    """Bytes that this process holds before a run of many examples, at most during it, and after it."""
    stored_weights.LEAST = stored_weights.LEAST_TOGETHER = 1 << 12
    graph = differentiate(load(Path(model)), ["block1"], [Target("next", index=3, reduce="mean")])
    session = open_session(graph, threads=1)
    ids = np.random.default_rng(0).integers(WORDS, size=(500, 40))
    session.run({"input_ids": ids[:2]})
    before = held_bytes()
    with peak_memory() as most:
        found = session.run({"input_ids": ids})["value/next"]
    assert np.isfinite(found).all()
    print(before, most[0], held_bytes())


def test_a_run_gives_back_what_it_took(folder: Path) -> None:
    """In a process of its own, which holds nothing that other tests left to be taken again."""
    program = "import sys; from tests.audits.test_large import print_memory_of_a_run as run; run(sys.argv[1])"
    command = [sys.executable, "-c", program, str(folder / "model.onnx")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    before, most, after = map(int, ran.stdout.split())
    assert after - before < (most - before) / 4  # without it, all but the outputs


@pytest.mark.usefixtures("large")
def test_a_target_of_one_class_reads_the_weights_of_that_class(folder: Path) -> None:
    model, target = load(folder / "model.onnx"), Target("next", index=3, versus=7, reduce="mean")
    ids = {"input_ids": np.load(folder / "targets.npy")[:4]}
    graphs = [differentiate(model, ["block1"], [target], alone=alone) for alone in (False, True)]
    readers = [
        [node.op_type for node in graph.ir.graph if "head" in {one.name for one in node.inputs}] for graph in graphs
    ]
    assert "MatMul" in readers[0]
    assert readers[1] == ["Gather"]
    expected, found = (open_session(graph, threads=1).run(ids) for graph in graphs)
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], atol=2e-6 * np.abs(expected[name]).max(), err_msg=name)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(("most", "passes"), [(array_keys.MOST_KEPT, []), (0, [["block1", "last.normal"]])])
def test_steps_share_one_pass_to_the_layers_that_were_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, most: int, passes: list[list[str]]
) -> None:
    exposed: list[Sequence[str]] = []

    def watched(model: Model, tensors: Sequence[str]) -> Graph:
        exposed.append(tensors)
        return expose(model, tensors)

    monkeypatch.setattr(activation_intervention, "expose", watched)
    monkeypatch.setattr(array_keys, "MOST_KEPT", most)
    audited(folder, "block1@mean", "last.normal@mean")
    assert exposed == passes
