"""`caveat init` finds pictures that a table names and labels, and rows that lie in Parquet and Arrow files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image
from pyarrow import ipc, parquet

from caveat.auditfile import read_audit
from caveat.cli import cli
from caveat.scaffold.datasets import class_labels, holds_pictures
from caveat_spec.audit import ConceptLine
from tests.client import first_audits
from tests.client.first_audits import bits, cnn, mlp, numbers, pictures, text_model, tokenizer

COUNT = 48
Build = Callable[[Path], None]
Wanted = dict[str, dict[str, str]]
CASES: dict[str, tuple[Build, Wanted]] = {}
"""Folders, and of each what the sets of the audit say: by the set's name, some of its fields."""
QUICK = "a_csv_of_paths"


def expects(**sets: dict[str, str]) -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        CASES[build.__name__] = build, sets
        return build

    return add


def names(count: int = COUNT) -> list[str]:
    return [f"{number}.png" for number in range(count)]


@expects(
    striped={"images": "pictures/", "annotations": "labels.csv", "where": "kind == 'striped'"},
    plain={"images": "pictures/", "annotations": "labels.csv", "where": "kind != 'striped'"},
)
def a_csv_of_paths(folder: Path) -> None:
    cnn(folder, classes=3)
    pictures(folder / "pictures", COUNT)
    kinds = ["plain", "striped"] * (COUNT // 2)
    columns = {"id": range(COUNT), "path": [f"pictures/{name}" for name in names()], "kind": kinds}
    first_audits.table(folder, columns, "labels.csv")


@expects(dog={"where": "label == 'dog'"}, not_dog={"where": "label != 'dog'"})
def json_lines_with_a_label_for_each_class(folder: Path) -> None:
    cnn(folder, classes=3)
    pictures(folder / "train", 75)
    labels = ["cat"] * 26 + ["dog"] * 21 + ["emu"] * 28
    lines = [{"file_name": name, "label": label} for name, label in zip(names(75), labels, strict=True)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@expects(traffic_light={"where": "`traffic light` >= 1"}, no_traffic_light={"where": "`traffic light` == 0"})
def annotations_of_coco(folder: Path) -> None:
    cnn(folder, classes=3)
    pictures(folder / "val2017", COUNT)
    objects = [{"id": n, "image_id": n // 2, "category_id": 7, "bbox": [1, 1, 4, 4]} for n in range(COUNT)]
    document = {
        "images": [{"id": n, "file_name": name, "width": 16, "height": 16} for n, name in enumerate(names())],
        "annotations": [*objects, {"id": 99, "image_id": 3, "category_id": 9, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 7, "name": "traffic light"}, {"id": 9, "name": "zebra"}],
    }
    (folder / "instances.json").write_text(json.dumps(document))


def dataset(count: int = COUNT) -> pa.Table:
    """Pictures and a class, as `datasets` keeps them."""
    random = np.random.default_rng(0)

    def picture() -> dict[str, Any]:
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    columns = {"image": [picture() for _ in range(count)], "label": pa.array([n % 2 for n in range(count)], pa.int64())}
    return pa.table(columns)


FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["plain", "striped"], "_type": "ClassLabel"}}
PARQUET = "data/train-00000-of-00001.parquet"


@expects(
    striped={"images": PARQUET, "where": "label == 1"},
    plain={"images": PARQUET, "where": "label != 1"},
)
def pictures_in_parquet(folder: Path) -> None:
    cnn(folder, classes=3)
    (folder / "data").mkdir()
    known = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    parquet.write_table(dataset().replace_schema_metadata(known), folder / PARQUET)


@expects(striped={"images": "saved/data-00000-of-00001.arrow", "where": "label == 1"})
def pictures_saved_to_disk(folder: Path) -> None:
    cnn(folder, classes=3)
    (folder / "saved").mkdir()
    table = dataset()
    with ipc.new_stream(str(folder / "saved" / "data-00000-of-00001.arrow"), table.schema) as stream:
        stream.write_table(table)
    (folder / "saved" / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    (folder / "saved" / "state.json").write_text("{}")


@expects(race_1={"table": "people.parquet"})
def rows_in_parquet(folder: Path) -> None:
    mlp(folder, 3, 2, "Softmax")
    rows = first_audits.ROWS
    columns = {"income": numbers(1), "debt": numbers(2), "race": bits(3), "approved": bits(4), "tags": [["a"]] * rows}
    parquet.write_table(pa.table(columns), folder / "people.parquet")


@expects(gender_m={"text": "reviews.arrow", "where": "gender == 'm'"})
def texts_in_arrow(folder: Path) -> None:
    text_model(folder)
    tokenizer(folder)
    words = ["the doctor was good", "a nurse was very bad", "the film was bad"]
    columns = {"text": [f"{words[n % 3]} {'very ' * (n % 5)}" for n in range(60)], "gender": ["f", "m"] * 30}
    table = pa.table(columns)
    with ipc.new_file(str(folder / "reviews.arrow"), table.schema) as file:
        file.write_table(table)


@pytest.mark.parametrize(
    "name", [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_what_init_writes_of_labelled_data_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    build, wanted = CASES[name]
    build(tmp_path)
    done = CliRunner().invoke(cli, ["init", "model.onnx"])
    assert done.exit_code == 0, done.output
    sets = read_audit(tmp_path / "audit.yaml").audit.model_dump(mode="json", exclude_unset=True)["examples"]
    assert wanted.keys() <= sets.keys()
    for one, fields in wanted.items():
        assert fields.items() <= sets[one].items()
    gate = CliRunner().invoke(cli, ["gate", "audit.yaml"])
    assert gate.exit_code in (0, 1, 4), gate.output


@pytest.mark.slow
def test_labels_that_are_the_classes_give_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    CASES["json_lines_with_a_label_for_each_class"][0](tmp_path)
    done = CliRunner().invoke(cli, ["init", "model.onnx"])
    assert done.exit_code == 0, done.output
    audit = read_audit(tmp_path / "audit.yaml").audit
    assert audit.targets["answer"].index == 1
    (line,) = (one for one in audit.gate if isinstance(one, ConceptLine))
    assert (line.concept, line.must) == ("dog", "matter")


def test_tables_that_name_no_pictures_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that is missing, one that is named twice, and JSON of something else: the folder alone is drafted."""
    monkeypatch.chdir(tmp_path)
    cnn(tmp_path)
    pictures(tmp_path / "pictures", 24)
    kinds = ["a", "b"] * 13
    first_audits.table(tmp_path, {"path": [*names(24), "gone.png", "1.png"], "kind": kinds}, "gone.csv")
    first_audits.table(tmp_path, {"path": names(13) * 2, "kind": kinds}, "twice.csv")
    (tmp_path / "config.json").write_text('{"images": 3}')
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    done = CliRunner().invoke(cli, ["init", "model.onnx"])
    assert done.exit_code == 0, done.output
    assert list(read_audit(tmp_path / "audit.yaml").audit.concepts) == ["brightness"]


def test_bytes_of_another_form_hold_nothing(tmp_path: Path) -> None:
    for suffix in (".parquet", ".arrow"):
        path = tmp_path / f"data{suffix}"
        path.write_bytes(b"no table")
        assert not holds_pictures(path)
        assert class_labels(path, "label") == []
