"""`half`: two halves that share nothing, alike in every set, with examples that belong together in one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from caveat_spec.audit import Arrays, Audit
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.example_sets import open_set_of
from caveat_worker.readers.source import ExampleSource, sampled

NAMES = [f"folder/photo{photo}-{crop}.png" for photo in range(40) for crop in range(3)]


def half(which: str | None, names: list[str] = NAMES, *, seed: int = 0, **fields: object) -> list[str]:
    declared = Arrays.model_validate({"arrays": "x", "half": which, **fields})
    return [names[at] for at in sampled(names, declared, seed)]


def test_the_halves_are_a_division() -> None:
    first, second = half("first"), half("second")
    assert sorted(first + second) == sorted(NAMES)
    assert 40 < len(first) < 80
    assert half(None) == NAMES
    assert half("first", seed=1) != first


def test_a_name_is_in_one_half_whatever_set_it_is_in() -> None:
    some = NAMES[::2]
    assert half("first", some) == [name for name in some if name in half("first")]


def test_what_belongs_together_is_not_parted() -> None:
    first, second = ({name.split("-")[0] for name in half(which, together="-")} for which in ("first", "second"))
    assert first
    assert second
    assert not first & second


def test_a_limit_counts_within_the_half() -> None:
    assert len(half("second", limit=5)) == 5
    assert set(half("second", limit=5)) <= set(half("second"))


def test_an_empty_half_is_a_sentence() -> None:
    one = next(name for name in NAMES if name in half("first"))
    with pytest.raises(InvalidInput, match="No example is in the second half"):
        half("second", [one])


PEOPLE = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Couples in a table and in texts: the women first, the men after them in the same order."""
    there = tmp_path_factory.mktemp("couples")
    rows = [f"{sex},{couple},{couple % 7},person {couple}" for sex in ("f", "m") for couple in range(PEOPLE)]
    (there / "people.csv").write_text("\n".join(["sex,couple,income,name", *rows]))
    (there / "fathers.csv").write_text("\n".join(["sex,couple,income,name", *rows[PEOPLE:]]))
    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(there / "tokenizer.json"))
    return there


def opened(folder: Path, sets: dict[str, dict[str, Any]]) -> dict[str, ExampleSource]:
    one, other, *_ = sets
    asked = {"concepts": {"c": {"examples": one, "against": other}}, "targets": {"t": {"examples": one}}}
    audit = Audit.model_validate({"model": "m.onnx", "examples": sets, **asked})
    return {name: open_set_of(audit, name, lambda source: folder / source) for name in sets}


def couples(folder: Path, women: ExampleSource, men: ExampleSource) -> list[tuple[str, str]]:
    """The names of what an audit pairs: examples of one key."""
    place = dict(zip(women.keys, women.names, strict=True))
    return [(place[key], name) for key, name in zip(men.keys, men.names, strict=True)]


WOMEN = {"where": "sex == f"}
KINDS = {
    "table": {"table": "people.csv"},
    "text": {"text": "people.csv", "field": "name", "tokenizer": "tokenizer.json", "length": 4},
}
DRAWN = [{"half": "first"}, {"half": "second", "limit": 20}, {"limit": 30}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("drawn", DRAWN, ids=str)
@pytest.mark.parametrize("men", [{"where": "sex == m"}, {"file": "fathers.csv"}], ids=["other-rows", "other-file"])
def test_pairs_of_other_rows_are_not_parted(
    folder: Path, kind: str, drawn: dict[str, Any], men: dict[str, Any]
) -> None:
    base = {**KINDS[kind], **drawn}
    other = {**base, **({kind: men["file"]} if "file" in men else men), "pairs_with": "women"}
    found = opened(folder, {"men": other, "women": {**base, **WOMEN}, "all": base})
    first = PEOPLE if "file" not in men else 0
    for woman, man in couples(folder, found["women"], found["men"]):
        assert int(man.split()[1]) - first == int(woman.split()[1])
    assert len(found["men"]) == len(found["women"]) < PEOPLE


@pytest.mark.parametrize("drawn", DRAWN, ids=str)
def test_an_array_is_drawn_like_the_rows_that_it_pairs_with(folder: Path, drawn: dict[str, Any]) -> None:
    np.save(folder / "fathers.npy", np.arange(PEOPLE, dtype=np.float32)[:, None])
    other = {"arrays": "fathers.npy", **drawn, "pairs_with": "women"}
    found = opened(folder, {"men": other, "women": {**KINDS["table"], **drawn, "where": "sex == m"}})
    for woman, man in couples(folder, found["women"], found["men"]):
        assert int(woman.split()[1]) - 1 - PEOPLE == int(man)
    assert len(found["men"]) == len(found["women"]) < PEOPLE


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_in_one_half_whatever_else_a_set_selects(folder: Path, kind: str) -> None:
    every = {**KINDS[kind], "half": "first"}
    found = opened(folder, {"all": every, "some": {**every, "where": "income > 3"}})
    assert set(found["some"].names) < set(found["all"].names)


def test_a_sample_of_edited_rows_pairs_with_those_rows_of_the_whole_table(folder: Path) -> None:
    twin = {**KINDS["table"], "set": {"income": 9}, "limit": 15, "pairs_with": "people"}
    found = opened(folder, {"people": KINDS["table"], "edited": twin})
    assert all(one == other for one, other in couples(folder, found["people"], found["edited"]))


def test_sets_that_pair_with_each_other_draw_alike(folder: Path) -> None:
    women = {**KINDS["table"], **WOMEN, "limit": 25, "pairs_with": "men"}
    found = opened(folder, {"women": women, "men": {**women, "where": "sex == m", "pairs_with": "women"}})
    assert found["women"].keys == found["men"].keys
