"""A small audit whose truth is known: the target follows the first feature and ignores the second."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from caveat_spec.audit import Audit
from caveat_spec.report import Report
from caveat_worker import pipeline

FEATURES = 4


def network(path: Path) -> Path:
    """[N, 4] → tanh layer `hidden1` → tanh layer `hidden2` → two logits; the second feature has no weight anywhere."""
    rng = np.random.default_rng(5)
    first = rng.normal(size=(FEATURES, 8)).astype(np.float32) / 2
    first[1] = 0
    weights = {
        "w1": first,
        "w2": rng.normal(size=(8, 6)).astype(np.float32) / 2,
        "w3": rng.normal(size=(6, 2)).astype(np.float32),
    }
    # An ignored feature would not be encoded either: it rides along in a unit that nothing reads.
    weights["w1"] = np.concatenate([weights["w1"], np.eye(FEATURES, dtype=np.float32)[:, 1:2]], axis=1)
    weights["w2"] = np.concatenate([weights["w2"], np.zeros((1, 6), np.float32)])
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["z1"]),
        helper.make_node("Tanh", ["z1"], ["hidden1"]),
        helper.make_node("MatMul", ["hidden1", "w2"], ["z2"]),
        helper.make_node("Tanh", ["z2"], ["hidden2"]),
        helper.make_node("MatMul", ["hidden2", "w3"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", FEATURES])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@dataclass
class Bench:
    """An audit's document and the files it names; change either, then run it."""

    folder: Path
    document: dict[str, Any]
    stages: list[tuple[str, float]] = field(default_factory=list)

    def run(self, **options: Any) -> Report:
        """Runs the audit in this process."""
        audit, by_digest = self.settled()
        return pipeline.run(
            audit,
            by_digest.__getitem__,
            lambda stage, progress: self.stages.append((stage, progress)),
            **{"threads": 1, **options},
        )

    def settled(self) -> tuple[Audit, dict[str, Path]]:
        """The audit with its paths turned into digests, and where each digest's bytes are."""
        audit = Audit.model_validate(self.document)
        places = {pointer: self.folder / source for pointer, source in audit.sources().items()}
        digests = {p: "sha256:" + hashlib.sha256(place.read_bytes()).hexdigest() for p, place in places.items()}
        return audit.with_sources(digests), {digest: places[pointer] for pointer, digest in digests.items()}

    def save(self, name: str, values: np.ndarray) -> None:
        """Writes an array among the audit's files."""
        np.save(self.folder / name, values.astype(np.float32))


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    network(folder / "model.onnx")
    rng = np.random.default_rng(8)
    pool, targets = rng.normal(size=(120, FEATURES)), rng.normal(size=(60, FEATURES))
    for number, name in enumerate(["used", "ignored"]):
        concept = pool[:40].copy()
        concept[:, number] += 1.5
        np.save(folder / f"{name}.npy", concept.astype(np.float32))
    np.save(folder / "base.npy", pool[:40].astype(np.float32))
    np.save(folder / "targets.npy", targets.astype(np.float32))
    return folder


@pytest.fixture
def bench(small_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The small audit, in a folder of its own."""
    for path in small_files.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    line = {"target": "first", "must": "not_matter", "tolerance": 0.2}
    return Bench(
        tmp_path,
        copy.deepcopy(
            {
                "model": "model.onnx",
                "examples": {
                    "base": {"arrays": "base.npy"},
                    "targets": {"arrays": "targets.npy"},
                    "used": {"arrays": "used.npy", "pairs_with": "base"},
                    "ignored": {"arrays": "ignored.npy", "pairs_with": "base"},
                },
                "concepts": {
                    "used": {"examples": "used", "against": "base"},
                    "ignored": {"examples": "ignored", "against": "base"},
                },
                "targets": {"first": {"index": 0, "examples": "targets"}},
                "layers": ["hidden1"],
                "method": {"runs": 30, "permutations": 199, "bootstrap": 199, "seed": 3},
                "gate": [{"concept": "used", **line}, {"concept": "ignored", **line}],
            }
        ),
    )


Change = Callable[[Bench], None]
