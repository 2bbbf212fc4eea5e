"""Documents remember where their values stand, and refuse what is no document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caveat.problems import ProblemError
from caveat.yaml_source import MAX_BYTES, read_document


def read(tmp_path: Path, text: str, name: str = "audit.yaml") -> Any:
    path = tmp_path / name
    path.write_text(text)
    return read_document(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-3", 1e-3),
        ("a: 0x1f", 31),
        ("a: -1_000", -1000),
        ("a: 010", 10),
        ("a: no", "no"),
        ("a: 2020-01-01", "2020-01-01"),
        ("a: true", True),
        ("a: ~", None),
        ('a: "12"', "12"),
        ("a: [1, {b: 2}]", [1, {"b": 2}]),
        ("b: &x {c: 1, d: 2}\na: {<<: *x, d: 3}", {"c": 1, "d": 3}),
        ("b: &x {c: 1}\ne: &y {d: 2}\na: {<<: [*x, *y]}", {"c": 1, "d": 2}),
        ("\ufeffa: 1", 1),
    ],
)
def test_values_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: object) -> None:
    assert read(tmp_path, text)[0]["a"] == value


def test_positions_point_at_values_and_keys(tmp_path: Path) -> None:
    _, positions = read(tmp_path, "a: 1\nb:\n  - c: 2\n    d/e: 3\n")
    assert positions.where("/b/0/c").endswith("audit.yaml:3:8")
    assert positions.where("/b/0/d~1e").endswith("audit.yaml:4:10")
    assert positions.where("/b/0/absent/thing").endswith("audit.yaml:3:5"), "the nearest thing around it"
    assert positions.where("").endswith("audit.yaml:1:1")


def test_positions_of_an_alias_are_those_of_its_anchor(tmp_path: Path) -> None:
    _, positions = read(tmp_path, "a: &x {c: 1}\nb: *x\nd: {<<: *x, e: 2}")
    assert positions.where("/b/c").endswith(":1:11")
    assert positions.where("/d/c").endswith(":1:11")


def test_json_keeps_its_own_rules_and_its_positions(tmp_path: Path) -> None:
    value, positions = read(tmp_path, '{\n\t"a": "\\u00e9 \\/",\n\t"b": [1.5, null]\n}', "audit.json")
    assert value == {"a": "é /", "b": [1.5, None]}
    assert positions.where("/b/0").endswith("audit.json:3:8")


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("", "a.yaml", "a.yaml:1:1: the file is empty"),
        ("a: [1", "a.yaml", "a.yaml:1:6: the file is not YAML"),
        ("a: b: c", "a.yaml", "a.yaml:1:5: the file is not YAML"),
        ("a: *nowhere", "a.yaml", "a.yaml:1:4: the file is not YAML"),
        ("a: 1\nb: 2\na: 3", "a.yaml", "a.yaml:3:1: the file has the key 'a' twice"),
        ("a: !!python/object:os.system x", "a.yaml", "a.yaml:1:4: the file has the tag"),
        ("a: 1\n--- b", "a.yaml", "is not YAML"),
        ("? [x]\n: 1", "a.yaml", "a.yaml:1:3: the file has a key that is not a name"),
        ("a: {<<: 3}", "a.yaml", "a.yaml:1:9: the file merges"),
        ("a: &x [*x]", "a.yaml", "nested more than 40 levels"),
        ("a: " + "[" * 100_000, "a.yaml", "a.yaml:1:43: the file is nested more than 40 levels"),
        ("[" * 100_000, "a.json", "nested more than 40 levels"),
        ("\x00", "a.yaml", "is not YAML"),
        ("a: " + "9" * 5000, "a.yaml", "a.yaml:1:4: the file has the number"),
        ('{"a": }', "a.json", "a.json:1:7: the file is not JSON"),
        ("x" * (MAX_BYTES + 1), "a.yaml", "is larger than"),
    ],
)
def test_what_is_no_document_is_refused_with_a_place(tmp_path: Path, text: str, name: str, told: str) -> None:
    with pytest.raises(ProblemError) as caught:
        read(tmp_path, text, name)
    assert told in caught.value.problem.detail
    assert caught.value.exit_code == 2
    assert caught.value.problem.remedy


@pytest.mark.parametrize("bomb", ["values", "merges"])
def test_anchors_are_bounded(tmp_path: Path, bomb: str) -> None:
    grow = "l{0}: &l{0} [" + "*l{1}, " * 9 + "]" if bomb == "values" else "l{0}: &l{0} {{<<: [" + "*l{1}, " * 9 + "]}}"
    lines = ["l0: &l0 {a: 1}"] + [grow.format(level, level - 1) for level in range(1, 12)]
    with pytest.raises(ProblemError, match="use fewer anchors"):
        read(tmp_path, "\n".join(lines))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\xe9")
    for name, told in (("latin.yaml", "is not UTF-8"), ("absent.yaml", "There is no file"), (".", "cannot be read")):
        with pytest.raises(ProblemError, match=told):
            read_document(tmp_path / name)
