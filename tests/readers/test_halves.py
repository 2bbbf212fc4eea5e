"""`half`: two halves that share nothing, alike in every set, with examples that belong together in one of them."""

from __future__ import annotations

import pytest

from caveat_spec.audit import Arrays
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.source import sampled

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
