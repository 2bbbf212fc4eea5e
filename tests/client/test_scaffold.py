"""A first audit file fits the model and the data beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caveat.auditfile import read_audit, resolve
from caveat.scaffold import Draft, first_audit
from caveat_spec.artifacts import Inspection, Tensor
from caveat_spec.audit import Arrays, Audit, Images, Table


def inspection(shape: list[Any], output: list[Any]) -> Inspection:
    return Inspection(
        inputs=[Tensor(name="x", dtype="float32", shape=shape)],
        outputs=[Tensor(name="logits", dtype="float32", shape=output)],
        layers=[],
        target="",
        warnings=[],
    )


def audit_of(folder: Path, found: Inspection) -> tuple[Audit, Draft]:
    """The drafted audit, which reads and resolves."""
    (folder / "model.onnx").write_bytes(b"model")
    draft = first_audit(folder / "model.onnx", folder, found)
    (folder / "audit.yaml").write_text(draft.text)
    file = read_audit(folder / "audit.yaml")
    if not draft.todo:
        resolve(file)
    return file.audit, draft


def fill(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")


@pytest.mark.parametrize(("shape", "layout"), [(["n", 3, 32, 32], "nchw"), ([None, 32, 32, 3], "nhwc")])
def test_pictures(tmp_path: Path, shape: list[Any], layout: str) -> None:
    fill(tmp_path / "striped horses", 25)
    fill(tmp_path / "photos", 25)
    audit, draft = audit_of(tmp_path, inspection(shape, ["n", 10]))
    assert draft.todo == []
    photos = audit.examples["photos"]
    assert isinstance(photos, Images)
    assert (photos.preprocess.size, photos.preprocess.layout) == (32, layout)
    assert audit.concepts["striped_horses"].against == "photos"
    assert audit.examples["striped_horses"].pairs_with == "photos", "every name is in both folders"
    assert audit.targets["answer"].index == 0
    assert draft.to_choose == "`index: 0` is the first of 10 classes; change it to the class that the audit is about."


def test_a_table_with_a_protected_column(tmp_path: Path) -> None:
    rows = ["income,urban,race,approved"] + [f"{i * 1.5},{i % 2},{int(i % 3 == 0)},{i % 2}" for i in range(120)]
    (tmp_path / "people.csv").write_text("\n".join(rows))
    audit, draft = audit_of(tmp_path, inspection(["n", 3], ["n", 1]))
    assert draft.todo == []
    shown, everyone = audit.examples["race_1"], audit.examples["everyone"]
    assert isinstance(shown, Table)
    assert isinstance(everyone, Table)
    assert shown.where == "race == 1"
    assert everyone.features == ["income", "urban", "race"]
    assert audit.targets["answer"].examples == "everyone"
    assert audit.targets["answer"].index is None
    assert draft.to_choose is None


def test_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "pool.npy", np.zeros((60, 7), np.float32))
    np.save(tmp_path / "with concept.npy", np.zeros((30, 7), np.float32))
    np.save(tmp_path / "other.npy", np.zeros((90, 8), np.float32))
    audit, draft = audit_of(tmp_path, inspection(["n", 7], ["n", 2]))
    assert draft.todo == []
    concept, pool = audit.examples["with_concept"], audit.examples["pool"]
    assert isinstance(concept, Arrays)
    assert isinstance(pool, Arrays)
    assert (concept.arrays, pool.arrays) == ("with concept.npy", "pool.npy")


@pytest.mark.parametrize("shape", [["n", 3, 32, 32], ["n", 7], ["n", 5, 7]])
def test_without_data_it_says_what_is_left_to_do(tmp_path: Path, shape: list[Any]) -> None:
    assert audit_of(tmp_path, inspection(shape, ["n", 2]))[1].todo
