"""An audit file is checked with line and column, and its paths become digests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from caveat.auditfile import read_audit, read_policy, resolve
from caveat.pack import digest
from caveat.problems import ProblemError
from caveat.yaml_source import read_document
from caveat_spec.audit import ExampleSet
from tests.client.conftest import AUDIT


def faults(path: Path) -> list[str]:
    """`line:column pointer: detail` of everything that is wrong with an audit file."""
    with pytest.raises(ProblemError) as caught:
        read_audit(path)
    assert caught.value.exit_code == 2
    positions = read_document(path)[1]
    return [
        f"{place.line}:{place.column} {fault.pointer}: {fault.detail}"
        for fault in caught.value.problem.errors
        for place in [positions.of(fault.pointer)]
    ]


@pytest.mark.parametrize(
    ("good", "bad", "told"),
    [
        (
            "size: 8",
            "sise: 8",
            "3:51 /examples/photos/preprocess/sise: 'sise' is not a field here; did you mean 'size'?",
        ),
        ("index: 1,", "index: 1, label: carton,", "8:29 /targets/carton/label: 'label' is not a field here"),
        ("size: 8", "size: 8, labell: x", "3:62 /examples/photos/preprocess/labell: 'labell' is not a field here"),
        (
            "must: not_matter",
            "must: not_matter\n    tollerance: 1",
            "13:17 /gate/0/tollerance: 'tollerance' is not a field here; did you mean 'tolerance'?",
        ),
        (
            "pairs_with: photos",
            "pair_with: photos",
            "4:56 /examples/marked/pair_with: 'pair_with' is not a field here; did you mean 'pairs_with'?",
        ),
        (
            "against: photos",
            "against: marked",
            "6:37 /concepts/mark/against: /concepts/mark/against names 'marked', the concept's own examples",
        ),
        ("size: 8", "size: 0", "3:51 /examples/photos/preprocess/size: examples.photos.preprocess.size should be gr"),
        ("{size: 8}", "{size: 8, mean: [1, x]}", "3:64 /examples/photos/preprocess/mean/1: examples.photos.preprocess"),
        ("index: 1", 'index: "1"', "8:19 /targets/carton/index: targets.carton.index should be a valid integer"),
        ("examples: marked,", "example: marked,", "6:9 /concepts/mark: 'examples' is missing"),
        ("against: photos", "against: fotos", "6:37 /concepts/mark/against: /concepts/mark/against names the example"),
        ("  photos:", "  ph otos:", "3:12 /examples/ph otos: 'ph otos' is not a valid name"),
        ("images: photos/", "pictures: photos/", "3:11 /examples/photos: an example set has one of the keys"),
        ("must: not_matter", "must: not_mater", "12:11 /gate/0/must: gate.0.must should be 'not_matter'"),
        ("concept: mark", "koncept: mark", "10:5 /gate/0: a line of the gate has one of the keys"),
        ("model: model.onnx\n", "", "1:1 : 'model' is missing"),
        ("gate:", "layers: []\ngate:", "9:9 /layers: layers "),
        ("gate:", "layers: [{tensor: a, reduce: sum}]\ngate:", "9:30 /layers/0/reduce: layers.0.reduce should match"),
        ("gate:", "method: {alpha: .inf}\ngate:", "9:17 /method/alpha: method.alpha should be"),
        ("  carton: {index: 1, examples: photos}", "", "9:1 /targets: targets should be an object (it is empty)"),
    ],
)
def test_a_fault_points_to_line_and_column(audit_file: Path, good: str, bad: str, told: str) -> None:
    assert good in AUDIT
    audit_file.write_text(AUDIT.replace(good, bad, 1))
    assert any(fault.startswith(told) for fault in faults(audit_file)), faults(audit_file)


def test_a_fault_of_the_whole_stands_at_its_beginning(audit_file: Path) -> None:
    audit_file.write_text(AUDIT.partition("targets:")[0])
    assert faults(audit_file) == ["1:1 : concepts need at least one entry in 'targets': the number they may influence"]


def test_a_long_value_is_shown_as_far_as_a_line_goes(audit_file: Path) -> None:
    """A table named as the audit file is one long text to YAML."""
    audit_file.write_text("age,income\n" + "40,50000.5\n" * 5_000)
    (fault,) = faults(audit_file)
    assert fault.startswith('1:1 : the file should be an object (it is "age,income 40,50000.5')
    assert len(fault) < 300


def test_every_fault_is_told_at_once(audit_file: Path) -> None:
    audit_file.write_text(AUDIT.replace("size: 8", "sise: 8").replace("not_matter", "mater").replace("1,", "-1,"))
    assert len(faults(audit_file)) == 6, "two sets miss a size and have a sise, an index, a must"


def test_yaml_and_json_say_the_same(audit_file: Path, tmp_path: Path) -> None:
    as_json = tmp_path / "audit.json"
    as_json.write_text(json.dumps(read_document(audit_file)[0], indent="\t"))
    assert read_audit(as_json).audit == read_audit(audit_file).audit


def test_paths_become_digests(audit_file: Path, tmp_path: Path) -> None:
    (tmp_path / "photos" / "notes.txt").write_text("left out")
    resolved = resolve(read_audit(audit_file))
    assert set(resolved.audit.sources().values()) == set(resolved.blobs)
    assert all(digest(file) == name for name, file in resolved.blobs.items())
    assert resolved.blobs[resolved.audit.model] == tmp_path / "model.onnx"
    kinds = ".arrow, .jpeg, .jpg, .parquet, .png, .webp"
    again = "  again: {images: photos/, preprocess: {size: 8}}\n"
    audit_file.write_text(AUDIT.replace("examples:\n", f"examples:\n{again}", 1))
    assert resolve(read_audit(audit_file)).notes == resolved.notes, "a folder of two sets is told once"
    assert resolved.notes == [f"photos/: left out 1 file of another kind than {kinds}."]


def test_the_same_files_elsewhere_give_the_same_audit(audit_file: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path, elsewhere, ignore=lambda *_: ["elsewhere"])
    audits = [resolve(read_audit(path)).audit for path in (audit_file, elsewhere / "audit.yaml")]
    assert audits[0] == audits[1]


def test_a_digest_stays_what_it_is(audit_file: Path, tmp_path: Path) -> None:
    known = "sha256:" + "a" * 64
    audit_file.write_text(AUDIT.replace("model.onnx", known))
    resolved = resolve(read_audit(audit_file))
    assert resolved.audit.model == known
    assert known not in resolved.blobs


@pytest.mark.parametrize(
    ("good", "bad", "pointer", "told"),
    [
        ("model.onnx", "modle.onnx", "/model", "there is no 'modle.onnx'; did you mean 'model.onnx'?"),
        ("model.onnx", "models/m.onnx", "/model", "there is no 'models/m.onnx'; nor is there a folder"),
        ("model.onnx", "photos", "/model", "'photos' is a folder; name one file: an ONNX model (.onnx)"),
        ("model.onnx", "empty", "/model", "'empty' is empty"),
        ("photos/", "bare/", "/examples/photos/images", "the folder 'bare/' holds no file that can be read here"),
        (
            "photos/",
            "photos/0.png",
            "/examples/photos/images",
            "is a single picture; name a zip or tar of pictures, or a dataset (.parquet, .arrow), or a folder of them",
        ),
    ],
)
def test_files_that_will_not_do(audit_file: Path, tmp_path: Path, good: str, bad: str, pointer: str, told: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "bare").mkdir()
    audit_file.write_text(AUDIT.replace(good, bad, 1))
    with pytest.raises(ProblemError) as caught:
        resolve(read_audit(audit_file))
    [fault] = caught.value.problem.errors
    assert fault.pointer == pointer
    assert told in fault.detail
    assert caught.value.exit_code == 2
    assert caught.value.positions is not None


FOLDERS: dict[str, dict[str, Any]] = {
    "images": {"images": "photos/", "preprocess": {"size": 8}},
    "arrays": {"arrays": "photos/"},
    "table": {"table": "photos/", "features": ["age"]},
    "text": {"text": "photos/", "tokenizer": "photos/"},
}
"""Every kind of examples, its sources being a folder of pictures."""


def test_the_kinds_of_examples_are_these() -> None:
    assert {next(iter(kind.SOURCES)) for kind in ExampleSet.__subclasses__()} == set(FOLDERS)


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_pictures_is_pictures(audit_file: Path, tmp_path: Path, kind: str) -> None:
    audit = read_document(audit_file)[0] | {"examples": dict.fromkeys(("photos", "marked"), FOLDERS[kind])}
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(audit))
    file = read_audit(path)
    declared = file.audit.examples["photos"]
    if kind == "images":
        assert resolve(file).notes == []
        return
    with pytest.raises(ProblemError) as caught:
        resolve(file)
    told = {fault.pointer: fault.detail for fault in caught.value.problem.errors}
    for field in declared.sources():
        refused = "holds no file that can be read here" if field in declared.FOLDERS else "is a folder; name one file"
        assert refused in told[f"/examples/photos/{field}"]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("kind", FOLDERS)
def test_one_picture_is_no_example_set(audit_file: Path, tmp_path: Path, kind: str) -> None:
    declared = {
        name: "photos/0.png" if value == "photos/" else value for name, value in FOLDERS[kind].items()
    }  # fmt: skip
    audit = read_document(audit_file)[0] | {"examples": dict.fromkeys(("photos", "marked"), declared)}
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(audit))
    with pytest.raises(ProblemError) as caught:
        resolve(read_audit(path))
    assert all("'photos/0.png' is a single picture; name " in fault.detail for fault in caught.value.problem.errors)
    assert caught.value.exit_code == 2


def test_a_policy_is_the_gate_of_any_audit_file(audit_file: Path, tmp_path: Path) -> None:
    alone = tmp_path / "policy.yaml"
    alone.write_text("gate:\n  - {concept: mark, target: carton, must: not_matter}\n")
    assert read_policy(alone)[0] == read_policy(audit_file)[0]
    alone.write_text("gates: []")
    with pytest.raises(ProblemError, match="2 faults"):
        read_policy(alone)
