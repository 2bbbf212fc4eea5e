"""Hostile audit files: each ends in a problem that points to its cause, before anything is built from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from caveat.auditfile import read_audit
from caveat.problems import ProblemError

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n  k{i}: 1\n" for i in range(1, 12)
)
WHOLE = {
    "model": "m.onnx",
    "examples": {"a": {"arrays": "a.npy"}, "b": {"arrays": "b.npy"}},
    "concepts": {"c": {"examples": "a", "against": "b"}},
    "targets": {"t": {"index": 0, "examples": "a"}},
}
UNREADABLE, INVALID = "unreadable-document", "invalid-audit"

CASES: dict[str, tuple[str, Callable[[], str | bytes]]] = {
    "nothing": (UNREADABLE, lambda: ""),
    "blanks": (UNREADABLE, lambda: " \n" * 1000),
    "a billion laughs": (UNREADABLE, lambda: LAUGHS),
    "merges that double": (UNREADABLE, lambda: MERGES),
    "an anchor that holds itself": (UNREADABLE, lambda: "a: &a [*a]"),
    "a mapping that holds itself": (UNREADABLE, lambda: "&a a: &b {c: *b}"),
    "a merge of itself": (UNREADABLE, lambda: "a: &a\n  <<: *a\n"),
    "an anchor that is not there": (UNREADABLE, lambda: "a: *b"),
    "brackets without end": (UNREADABLE, lambda: "[" * 100_000),
    "braces without end": (UNREADABLE, lambda: "{a: " * 50_000),
    "dashes without end": (UNREADABLE, lambda: "- " * 50_000),
    "steps without end": (UNREADABLE, lambda: "".join(" " * i + "a:\n" for i in range(1300))),
    "question marks without end": (UNREADABLE, lambda: "? " * 10_000),
    "two megabytes": (UNREADABLE, lambda: "a: " + "x" * 2_000_000),
    "many keys": (UNREADABLE, lambda: "".join(f"k{i}: 1\n" for i in range(30_000))),
    "a python object": (INVALID, lambda: "!!python/object/apply:os.system ['true']"),
    "a python name": (UNREADABLE, lambda: "model: !!python/name:os.system ''"),
    "a tag of its own": (UNREADABLE, lambda: "model: !evil x"),
    "a binary": (UNREADABLE, lambda: "model: !!binary aGk="),
    "a set": (INVALID, lambda: "!!set {a, b}"),
    "a directive": (UNREADABLE, lambda: "%YAML 9.9\n---\na: 1"),
    "a tag directive": (UNREADABLE, lambda: "%TAG ! tag:evil,2000:\n---\na: !b 1"),
    "two documents": (UNREADABLE, lambda: "a: 1\n---\nb: 2\n"),
    "a key twice": (UNREADABLE, lambda: "model: a\nmodel: b\n"),
    "a key that is a list": (UNREADABLE, lambda: "[a, b]: 1"),
    "a key that is a mapping": (UNREADABLE, lambda: "{a: b}: 1"),
    "tabs": (UNREADABLE, lambda: "a:\n\tb: 1"),
    "a zero": (UNREADABLE, lambda: "model: a\0b"),
    "an escape": (UNREADABLE, lambda: "model: \x1b[2J"),
    "not utf-8": (UNREADABLE, lambda: b"model: \xff\xfe"),
    "utf-16": (UNREADABLE, lambda: "model: a".encode("utf-16")),
    "a quote without end": (UNREADABLE, lambda: 'model: "a'),
    "an escape of nothing": (UNREADABLE, lambda: '"\\x"'),
    "half a character": (INVALID, lambda: 'model: "\\ud800"'),
    "a huge integer": (UNREADABLE, lambda: "a: " + "9" * 100_000),
    "a huge hexadecimal": (UNREADABLE, lambda: "a: 0x" + "f" * 10_000),
    "an integer of underscores": (UNREADABLE, lambda: "a: 1" + "_" * 50_000),
    "sexagesimal": (INVALID, lambda: "a: " + ":".join(["59"] * 10_000)),
    "a huge exponent": (INVALID, lambda: "a: 1e999999999"),
    "a date past all counting": (INVALID, lambda: "a: 99999-99-99T99:99:99Z"),
    "a pattern that takes long": (INVALID, lambda: "a: " + "0" * 50_000 + "x"),
    "a float that takes long": (UNREADABLE, lambda: "a: ." + "_" * 50_000),
    "a list": (INVALID, lambda: "- a\n- b\n"),
    "a word": (INVALID, lambda: "hello"),
    "html": (INVALID, lambda: "<html></html>"),
    "not a number": (INVALID, lambda: json.dumps(WHOLE | {"method": {"alpha": float("nan")}})),
    "endless": (INVALID, lambda: json.dumps(WHOLE | {"method": {"regularisation": float("inf")}})),
    "a seed too large": (INVALID, lambda: json.dumps(WHOLE | {"method": {"seed": 2**64}})),
    "runs without end": (INVALID, lambda: json.dumps(WHOLE | {"method": {"runs": 10**12}})),
    "null sets without end": (INVALID, lambda: json.dumps(WHOLE | {"method": {"permutations": 10**9}})),
    "a negative limit": (INVALID, lambda: json.dumps(WHOLE | {"examples": {"a": {"arrays": "a", "limit": -1}}})),
    "a name that points outside": (INVALID, lambda: json.dumps(WHOLE | {"examples": {"../a": {"arrays": "a"}}})),
    "a name of a megabyte": (UNREADABLE, lambda: json.dumps(WHOLE | {"targets": {"a" * 900_000: {"examples": "a"}}})),
    "a picture past all counting": (
        INVALID,
        lambda: json.dumps(WHOLE | {"examples": {"a": {"images": "a", "preprocess": {"size": 10**9}}}}),
    ),
    "a division by nothing": (
        INVALID,
        lambda: json.dumps(WHOLE | {"examples": {"a": {"images": "a", "preprocess": {"size": 9, "std": 0}}}}),
    ),
    "unknown fields": (INVALID, lambda: json.dumps(WHOLE | {"__class__": 1, "constructor": {}})),
}


@pytest.mark.parametrize("name", CASES)
def test_an_audit_file_is_refused_where_it_goes_wrong(name: str, tmp_path: Path) -> None:
    code, make = CASES[name]
    content = make()
    path = tmp_path / "audit.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    with pytest.raises(ProblemError) as caught:
        read_audit(path)
    problem = caught.value.problem
    assert problem.type == f"urn:caveat:problem:{code}"
    assert problem.status == 422
    assert problem.remedy
    assert len(problem.model_dump_json()) < 200_000


JSON = {
    "nothing": "",
    "brackets": "[" * 100_000,
    "braces": '{"a":' * 100_000,
    "a comma": '{"a": 1,}',
    "a key twice": '{"a": 1, "a": 2}',
    "a huge number": '{"a": ' + "9" * 100_000 + "}",
    "a comment": "{/* */}",
    "a word": "nul",
    "two": "{} {}",
    "a mark": "\ufeff{",
}


@pytest.mark.parametrize("name", JSON)
def test_a_json_file_is_refused_where_it_goes_wrong(name: str, tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    path.write_text(JSON[name])
    with pytest.raises(ProblemError) as caught:
        read_audit(path)
    assert caught.value.problem.type == f"urn:caveat:problem:{UNREADABLE}"


@pytest.mark.parametrize("kind", ["folder", "device", "nowhere", "circle"])
def test_what_is_no_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "circle":
        path.symlink_to(path)
    with pytest.raises(ProblemError) as caught:
        read_audit(path)
    kinds = ("unreadable-file", "no-such-file", UNREADABLE)
    assert caught.value.problem.type.removeprefix("urn:caveat:problem:") in kinds
