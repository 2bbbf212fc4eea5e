"""Drafts of audits of NumPy arrays, whose shapes are read from their headers."""

from __future__ import annotations

import ast
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from caveat.scaffold.beside import FEWEST, SPLITS, Beside, likeliest
from caveat.scaffold.draft import Concept, Draft, set_name
from caveat.scaffold.target import Question
from caveat_spec.artifacts import Tensor

MOST_EXAMPLES = 500
LONGEST_HEADER = 10_000


@dataclass(frozen=True)
class Array:
    """An array whose examples fit the model's only input, or several arrays that fit all of its inputs."""

    path: Path
    name: str
    fields: dict[str, Any]
    count: int


def propose_arrays(beside: Beside, question: Question) -> Iterator[Draft]:
    """The likeliest concept against the likeliest reference, of two arrays that fit the model or more."""
    found = {Path(one.name): one for one in fitting_arrays(beside) if one.count >= FEWEST}
    likely = likeliest({name: one.count for name, one in found.items() if name.stem.lower() not in SPLITS})
    if len(likely) < 2:
        return
    concept, reference = found[likely[0]], found[likely[-1]]
    name = set_name(reference.name)
    shown = set_name(concept.name, {name: None})
    sets = {name: _fields(beside, reference), shown: _fields(beside, concept)}
    paired = concept.count == reference.count
    if paired:
        sets[shown]["pairs_with"] = name
    to_check = (paired_rows(shown, name),) if paired else ()
    yield Draft(sets, name, {shown: Concept(shown, (name,))}, target=question.fields, to_check=to_check)


def paired_rows(shown: str, base: str) -> str:
    """What to check where two arrays are taken for matched pairs."""
    return (
        f"row by row {shown} and {base} are taken for the same examples with and without the concept: they have as "
        "many rows, and those in the same place are alike. Leave `pairs_with` out if they are others."
    )


def fitting_arrays(beside: Beside) -> list[Array]:
    """The arrays beside a model that it can take, in `.npy` files and under the keys of `.npz` files."""
    found: list[Array] = []
    for path in beside.files(".npy", ".npz"):
        shapes = _shapes(path)
        if len(beside.inputs) > 1:
            found += _of_several_inputs(path, shapes, beside.inputs)
            continue
        for key, shape in shapes.items():
            if _fits(shape, beside.inputs[0]):
                only = path.suffix.lower() == ".npy" or len(shapes) == 1
                found.append(Array(path, path.stem if only else key, {} if only else {"key": key}, shape[0]))
    return found


def _of_several_inputs(path: Path, shapes: dict[str, tuple[int, ...]], inputs: list[Tensor]) -> Iterator[Array]:
    """The file as one set of examples, where it has an array for each input by the input's name."""
    if all(one.name in shapes and _fits(shapes[one.name], one) for one in inputs):
        count = min(shapes[one.name][0] for one in inputs)
        yield Array(path, path.stem, {"inputs": {one.name: one.name for one in inputs}}, count)


def _fields(beside: Beside, array: Array) -> dict[str, Any]:
    limit = {"limit": MOST_EXAMPLES} if array.count > MOST_EXAMPLES else {}
    return {"arrays": beside.relative(array.path), **array.fields, **limit}


def _fits(shape: tuple[int, ...], tensor: Tensor) -> bool:
    return len(shape) == len(tensor.shape) >= 2 and all(
        not isinstance(size, int) or size == found for size, found in zip(tensor.shape[1:], shape[1:], strict=True)
    )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of numbers in a file, by their keys; none where it cannot be read."""
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                return {path.stem: _shape(file)}
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            found = {}
            for name in names[:100]:
                with archive.open(name) as file:
                    found[name.removesuffix(".npy")] = _shape(file)
            return {key: shape for key, shape in found.items() if shape}
    except (OSError, ValueError, KeyError, SyntaxError, struct.error, IndexError, TypeError, zipfile.BadZipFile):
        return {}


def _shape(file: IO[bytes]) -> tuple[int, ...]:
    """The shape in the header of an `.npy`; raises ValueError for other bytes."""
    if file.read(6) != b"\x93NUMPY":
        raise ValueError("not an array")
    wide = file.read(2)[0] > 1
    (length,) = struct.unpack("<I" if wide else "<H", file.read(4 if wide else 2))
    header = ast.literal_eval(file.read(min(length, LONGEST_HEADER)).decode("latin1"))
    return tuple(int(size) for size in header["shape"])
