"""Example sets in memory as files: arrays, frames, pictures and texts, one row of `WRITERS` for each kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caveat.objects import class_names
from caveat.problems import problem
from caveat_spec.audit import DATASETS, Arrays, ExampleSet, Images, Table, Text

KINDS: dict[str, type[ExampleSet]] = {"images": Images, "arrays": Arrays, "table": Table, "text": Text}
_FRAMES = frozenset({"pandas.DataFrame", "pandas.core.frame.DataFrame"})
"""One class: its name since pandas 3, and before."""
BRIGHTEST = 255
_TABLES = frozenset({".csv", ".json", ".jsonl", *DATASETS})


@dataclass(frozen=True)
class Writer:
    """How objects of one kind become a file."""

    kind: str
    """The field of an example set that names the file."""
    accepts: Callable[[Any], bool]
    write: Callable[[Any, Path], Path]
    """Writes an object under a path without a suffix; returns the file or folder that it wrote."""


@dataclass
class ExampleFiles:
    """A folder of example sets that were objects; an object that is used twice is written once."""

    folder: Path
    tables: dict[str, Any] = field(default_factory=dict)
    """The data frames by the name of their set."""
    arrays: dict[str, Any] = field(default_factory=dict)
    """The arrays, or arrays by input, by the name of their set."""
    _written: dict[int, tuple[Any, str]] = field(default_factory=dict)

    def declared(self, name: str, given: Any) -> dict[str, Any]:
        """The example set as an audit file declares it; raises a `ProblemError` for objects of no known kind.

        `given` is an object, or a mapping as in an audit file whose sources may be objects.
        """
        if not (isinstance(given, Mapping) and KINDS.keys() & given.keys()):
            return self._of_object(name, given)
        kind = next(iter(KINDS.keys() & given.keys()))
        declared = dict(given) | self._of_object(name, given[kind], kind)
        for other in KINDS[kind].SOURCES.keys() & given.keys() - {kind}:
            declared[other] = _source(given[other], f"/examples/{name}/{other}")
        return declared

    def _of_object(self, name: str, given: Any, kind: str | None = None) -> dict[str, Any]:
        if isinstance(given, str | Path):
            return {kind or _kind_of(Path(given), name): _source(given, f"/examples/{name}")}
        writer = next((one for one in WRITERS if one.accepts(given)), None)
        if writer is None or kind not in (None, writer.kind):
            raise _no_kind(name, given, kind)
        if writer.kind == "table":
            self.tables[name] = given
        if writer.kind == "arrays":
            self.arrays[name] = given
        if id(given) not in self._written:  # the object is kept, so that its number stays its own
            path = writer.write(given, self.folder / f"examples-{len(self._written)}")
            self._written[id(given)] = given, str(path)
        declared: dict[str, Any] = {writer.kind: self._written[id(given)][1]}
        if isinstance(given, Mapping):
            declared["inputs"] = {key: key for key in given}
        return declared


def _source(given: Any, pointer: str) -> str:
    """A path or URL; paths are relative to the working directory."""
    if not isinstance(given, str | Path):
        raise problem(
            "no-source",
            422,
            f"{pointer} is of type {type(given).__name__}, and a path is expected there.",
            "Name a file.",
        )
    return str(given)


def _kind_of(path: Path, name: str) -> str:
    """The kind of examples in a file, by its suffix."""
    if path.suffix.lower() in (".npy", ".npz"):
        return "arrays"
    if path.suffix.lower() in _TABLES:
        return "table"
    raise problem(
        "unknown-examples",
        422,
        f"/examples/{name} names {path}, and its suffix does not say what kind of examples it holds.",
        "Say the kind, for example {'images': 'photos/', 'preprocess': {...}} or {'text': 'reviews.jsonl', "
        "'tokenizer': 'tokenizer.json'}.",
    )


def _no_kind(name: str, given: Any, kind: str | None) -> Exception:
    wanted = "examples" if kind is None else f"'{kind}'"
    return problem(
        "unknown-examples",
        422,
        f"/examples/{name} is of type {type(given).__name__}, which cannot be used as {wanted}.",
        "Give an array, a dict of arrays by the model's inputs, a data frame, a list of PIL pictures or of strings, a "
        "path, or a mapping as in an audit file.",
    )


def _is_list_of(kind: str, value: Any) -> bool:
    """Whether a value is a sequence whose members all are of a class, named so that it need not be imported."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(kind in class_names(one) for one in value)
    )


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and not hasattr(value, "columns") and hasattr(value, "shape")


def _write_array(array: Any, path: Path) -> Path:
    import numpy as np

    path = path.with_suffix(".npy")
    np.save(path, _plain(array), allow_pickle=False)
    return path


def _write_arrays(arrays: Mapping[str, Any], path: Path) -> Path:
    import numpy as np

    path = path.with_suffix(".npz")
    np.savez(path, allow_pickle=False, **{name: _plain(array) for name, array in arrays.items()})
    return path


def _plain(array: Any) -> Any:
    """An array of NumPy; a tensor of torch leaves its graph and its device."""
    import numpy as np

    found = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    if found.dtype.hasobject:
        raise problem(
            "unknown-examples",
            422,
            f"An array holds Python's objects, such as {found.ravel()[:1].tolist()}, in place of numbers of one kind.",
            "Give a data frame, which keeps the kind of each column, or numbers: `array.astype('float32')`.",
        )
    return found


def _write_table(frame: Any, path: Path) -> Path:
    path = path.with_suffix(".parquet")
    frame.rename(columns=str).to_parquet(path, index=False)
    return path


def _write_pictures(pictures: Sequence[Any], path: Path) -> Path:
    """Pictures are named by their position, by which two lists pair."""
    path.mkdir()
    for position, picture in enumerate(pictures):
        _storable(picture, position).save(path / f"{position:06}.png", compress_level=1)
    return path


def _storable(picture: Any, position: int) -> Any:
    """A picture as PNG stores it: grey of 8 or 16 bits or colours; raises a `ProblemError` where all would be black."""
    if picture.mode in ("L", "RGB") or picture.mode.startswith("I;16"):
        return picture
    if picture.mode == "I":
        return picture.convert("I;16" if picture.getextrema()[1] > BRIGHTEST else "L")
    if picture.mode == "F" and picture.getextrema()[1] <= 1:
        raise problem(
            "unknown-examples",
            422,
            f"Picture {position} is of floats up to {picture.getextrema()[1]:g}; pixels are numbers from 0 to 255.",
            "Convert it: `Image.fromarray((255 * array).astype('uint8'))`.",
        )
    return picture.convert("RGB")


def _write_texts(texts: Sequence[str], path: Path) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts), "utf-8")
    return path


WRITERS = (
    Writer("table", lambda value: not _FRAMES.isdisjoint(class_names(value)), _write_table),
    Writer("arrays", _is_array, _write_array),
    Writer("arrays", lambda value: isinstance(value, Mapping) and all(map(_is_array, value.values())), _write_arrays),
    Writer("images", lambda value: _is_list_of("PIL.Image.Image", value), _write_pictures),
    Writer("text", lambda value: _is_list_of("builtins.str", value), _write_texts),
)
