"""`only`: examples by the names that reports give them, and a set that is a part of another."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from caveat_spec.audit import Arrays, Audit, Table
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.source import sampled
from caveat_worker.readers.tables import open_table

NAMES = ["a/cat.png", "a/dog.png", "b/cat.png"]
PHOTOS = {"images": "photos.zip", "preprocess": {"size": 8}, "half": "first"}


def named(*only: str) -> list[int]:
    return sampled(NAMES, Arrays(arrays="x", only=list(only)), 0)


def test_examples_are_taken_by_name_in_the_order_of_the_set() -> None:
    assert named("b/cat.png", "a/cat.png") == [0, 2]


def test_names_that_are_not_there_are_a_sentence() -> None:
    with pytest.raises(InvalidInput, match=r"'only' names 'cat\.png' and 1 others, which the set does not have"):
        named("cat.png", "a/dog.png", "bird.png")


def test_rows_are_named_as_reports_name_them(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("age,paid\n30,1\n40,0\n50,1\n60,1\n")
    declared = Table(table="x.csv", where="paid == 1", only=["row 4", "row 3"])
    assert open_table(declared, tmp_path / "x.csv", 0).names == ("row 3", "row 4")
    with pytest.raises(InvalidInput, match="'row 2'"):
        open_table(Table(table="x.csv", where="paid == 1", only=["row 2"]), tmp_path / "x.csv", 0)


def audit(**sets: Any) -> Audit:
    return Audit.model_validate(
        {
            "model": "m.onnx",
            "examples": {"photos": copy.deepcopy(PHOTOS), **sets},
            "targets": {"cat": {"examples": "photos"}},
            "explain": {"why": {"of": "cat", "show": ["saliency"]}},
        }
    )


def test_a_part_has_the_fields_of_the_whole_and_its_own() -> None:
    part = audit(some={"of": "photos", "only": ["a.png"], "half": None}).examples["some"]
    assert part.model_dump(exclude_unset=True) == {**PHOTOS, "only": ["a.png"], "half": None}


@pytest.mark.parametrize("of", ["pictures", "some", 3])
def test_a_part_of_nothing_is_a_sentence(of: Any) -> None:
    with pytest.raises(ValidationError, match=f"/examples/some/of names '{of}', which is not a set of its own; there"):
        audit(some={"of": of, "only": ["a.png"]})
