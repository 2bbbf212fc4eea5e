"""Arrays in `.npy` and `.npz`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caveat_spec.audit import Arrays
from caveat_worker.engine.activations.requirements import ONLY
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.registry import open_examples
from tests.readers.conftest import at


def test_rows_of_an_npy(tmp_path: Path) -> None:
    values = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "a.npy", values)
    source = open_examples(Arrays(arrays="x"), at(tmp_path / "a.npy"), 0)
    assert (len(source), source.shapes[ONLY]) == (4, (3,))
    np.testing.assert_array_equal(source.load([2, 0])[ONLY], values[[2, 0]])


def test_an_npz_is_read_by_key(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.zeros((2, 2)), two=np.ones((3, 2)))
    assert len(open_examples(Arrays(arrays="x", key="two"), at(tmp_path / "a.npz"), 0)) == 3
    with pytest.raises(InvalidInput, match="one, two"):
        open_examples(Arrays(arrays="x"), at(tmp_path / "a.npz"), 0)
    with pytest.raises(InvalidInput, match="no array 'three'"):
        open_examples(Arrays(arrays="x", key="three"), at(tmp_path / "a.npz"), 0)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.array([{"a": 1}], dtype=object), "not a NumPy array"),
        (np.array([["a"]]), "not numbers"),
        (np.zeros(5), "it needs two axes or more, and examples along the first"),
    ],
)
def test_what_is_not_an_array_of_examples_is_refused(tmp_path: Path, array: np.ndarray, sentence: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InvalidInput, match=sentence):
        open_examples(Arrays(arrays="x"), at(tmp_path / "a.npy"), 0)


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"text"])
def test_bytes_that_are_no_array_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(InvalidInput, match="not a NumPy array"):
        open_examples(Arrays(arrays="x"), at(tmp_path / "a.npy"), 0)


def test_several_inputs_come_from_several_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(6.0).reshape(3, 2), y=np.ones((3, 4), np.int64))
    source = open_examples(Arrays(arrays="x", inputs={"left": "x", "right": "y"}), at(tmp_path / "a.npz"), 0)
    assert source.shapes == {"left": (2,), "right": (4,)}
    found = source.load([2])
    assert found["left"].tolist() == [[4, 5]]
    assert found["right"].dtype == np.int64


def test_arrays_of_different_lengths_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((3, 2)), y=np.ones((4, 2)))
    with pytest.raises(InvalidInput, match="left 3, right 4"):
        open_examples(Arrays(arrays="x", inputs={"left": "x", "right": "y"}), at(tmp_path / "a.npz"), 0)
