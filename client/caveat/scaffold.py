"""`caveat init`: drafts an audit file from a model's inputs and the data beside it."""

from __future__ import annotations

import ast
import csv
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from caveat.auditfile import read_audit
from caveat.console_output import out
from caveat.inspection import inspect
from caveat.pack import files_in
from caveat.problems import problem
from caveat_spec.artifacts import Inspection, Tensor
from caveat_spec.audit import Method

FEWEST: int = Method.model_fields["min_examples"].default
ROWS_READ = 50_000
PROTECTED = re.compile(
    r"race|racial|ethnic|black|white|hispan|asian|sex|gender|male|female|age|married|religio|disab|national", re.I
)
REFERENCE = re.compile(
    r"photo|image|picture|pool|all|every|random|other|background|control|data|without|reference", re.I
)
OUTCOME = re.compile(
    r"^(label|target|y|outcome|class|approve[d]?|decision|default(ed)?|reject(ed)?|income|score)$", re.I
)


@dataclass(frozen=True)
class Draft:
    """The text of an audit file, and what its author still has to do before it runs."""

    text: str
    todo: list[str]
    to_choose: str | None = None
    """A value that was filled in by default and should be checked."""


@dataclass(frozen=True)
class Body:
    """The parts of an audit file that depend on the data: the example sets, and concept, target and gate."""

    examples: str
    question: str
    todo: list[str]


@dataclass(frozen=True)
class Columns:
    """The numeric columns of a CSV file, and for those of only 0 and 1 the number of rows with each."""

    numeric: list[str]
    binary: dict[str, tuple[int, int]]


def write_first_audit(model: Path, write: Path, force: bool, server: str | None, key: str | None) -> None:
    """Writes an audit file for `model`, and prints what to do next."""
    if write.exists() and not force:
        raise problem(
            "file-exists",
            422,
            f"{write} exists already.",
            "Choose another name with --write, or replace it with --force.",
        )
    draft = first_audit(model, write.parent, inspect(model, server, key))
    write.parent.mkdir(parents=True, exist_ok=True)
    write.write_text(draft.text, encoding="utf-8")
    read_audit(write)  # raises where the draft is not valid
    console = out()
    console.print(f"Wrote {write}.")
    for step in draft.todo:
        console.print(f"  Before it runs: {step}")
    if draft.to_choose:
        console.print(f"  Please check: {draft.to_choose}")
    console.print(f"{'Then' if draft.todo else 'Next'}: caveat gate {write} --html report.html")


def first_audit(model: Path, folder: Path, inspection: Inspection) -> Draft:
    """Drafts an audit of `model` for a file in `folder`, with the data found in either's folder."""
    tensor = inspection.inputs[0]
    places = list(dict.fromkeys(place.resolve() for place in (folder, model.parent)))
    size = _picture_size(tensor)
    if size is not None:
        body = _of_pictures(places, folder, tensor, size)
    elif tables := [(path, columns) for path in _files(places, ".csv") if (columns := _columns(path)).binary]:
        body = _of_a_table(*tables[0], folder, _width(tensor))
    else:
        body = _of_arrays(places, folder, tensor)
    answer = inspection.outputs[0]
    classes = _width(answer) or 1
    index = ", index: 0" if classes > 1 else ""
    heading = _HEADING.format(
        model=_quoted(os.path.relpath(model, folder)), inputs=_described(tensor), outputs=_described(answer)
    )
    question = body.question.format(output=f"output: {_quoted(answer.name)}{index}")
    to_choose = (
        f"`index: 0` is the first of {classes:,} classes; change it to the class that the audit is about."
        if index
        else None
    )
    return Draft("".join((heading, body.examples, question, _METHOD)), body.todo, to_choose)


_HEADING = """\
# An audit of {model}; run it with `caveat gate`. `caveat layers` lists the layers of the model.
# Input:  {inputs}
# Output: {outputs}
model: {model}

"""

_METHOD = """
# `auto` picks a few layers between input and output. To choose them yourself: [block3, block9@mean].
layers: auto

# method: {runs: 500, permutations: 499, bootstrap: 499, alpha: 0.05, seed: 0}   # the defaults
"""


def _of_pictures(places: list[Path], folder: Path, tensor: Tensor, size: int) -> Body:
    sets = _picture_folders(places)
    todo = []
    if len(sets) < 2:
        todo.append(f"put pictures that show the concept into concept/ (at least {FEWEST}, better 50)")
    if not sets:
        todo.append("put other pictures, typical of what the model sees, into photos/")
    likely = _reference_last(sets)
    concept = likely[0] if len(likely) > 1 else folder / "concept"
    reference = likely[-1] if likely else folder / "photos"
    if len(likely) > 1 and sets[concept] < FEWEST:
        todo.append(f"{concept.name} holds {sets[concept]} pictures; {FEWEST} are needed")
    name = _name(concept.name)
    reference_name = _name(reference.name)
    paired = len(likely) > 1 and set(files_in(concept)) <= set(files_in(reference))
    pairs = f", pairs_with: {reference_name}" if paired else ""
    layout = "nhwc" if tensor.shape[-1] in (1, 3) else "nchw"
    channels = "gray" if 1 in (tensor.shape[1], tensor.shape[-1]) else "rgb"
    text = f"""\
# The model's input is (pixel - mean) / std, with pixels from 0 to 255. Use the values it was trained with.
examples:
  {reference_name}:
    images: {_relative(reference, folder)}
    preprocess: &preprocess {{size: {size}, mean: 127, std: 128, layout: {layout}, channels: {channels}}}
  {name}: {{images: {_relative(concept, folder)}, preprocess: *preprocess{pairs}}}
"""
    return Body(text, _question(name, name, reference_name, reference_name), todo)


def _of_a_table(path: Path, columns: Columns, folder: Path, width: int | None) -> Body:
    features, todo = _inputs(columns.numeric, width), []
    if width is not None and len(features) != width:
        todo.append(
            f"check `features`: the model takes {width} columns, and {path.name} has {len(features)} candidates"
        )
        features = features[:width]
    enough = {column for column, rows in columns.binary.items() if min(rows) >= FEWEST} or set(columns.binary)
    column = next((one for one in columns.binary if one in enough and PROTECTED.search(one)), None)
    column = column or next(one for one in columns.binary if one in enough)
    if min(columns.binary[column]) < FEWEST:
        todo.append(
            f"{path.name} has only {min(columns.binary[column])} rows with one of the values of {column}; "
            f"{FEWEST} are needed"
        )
    name = _name(column)
    source = _relative(path, folder)
    test = column if column.isidentifier() else f"`{column}`"
    listed = "\n".join(f"      - {_quoted(one)}" for one in features)
    text = f"""\
# `features` are the model's input columns, in its order. Check them.
examples:
  everyone:
    table: {source}
    features: &features
{listed}
  {name}_1: {{table: {source}, features: *features, where: {_quoted(f"{test} == 1")}}}
  {name}_0: {{table: {source}, features: *features, where: {_quoted(f"{test} == 0")}}}
"""
    return Body(text, _question(name, f"{name}_1", f"{name}_0", "everyone"), todo)


def _reference_last(sets: dict[Path, int]) -> list[Path]:
    """Example sets, the likeliest concept first and the likeliest reference last: by name, then by size."""
    return sorted(sets, key=lambda path: (bool(REFERENCE.search(path.stem)), sets[path]))


def _inputs(columns: list[str], width: int | None) -> list[str]:
    """The columns without those that exceed `width` and whose names suggest the model's output."""
    kept = list(columns)
    for column in reversed(columns):
        if width is not None and len(kept) > width and OUTCOME.match(column):
            kept.remove(column)
    return kept


def _of_arrays(places: list[Path], folder: Path, tensor: Tensor) -> Body:
    fitting = {path: rows for path in _files(places, ".npy") if (rows := _rows(path, tensor)) is not None}
    likely = _reference_last(fitting)
    todo = []
    if len(likely) < 2:
        shape = "×".join(str(size) for size in tensor.shape[1:])
        todo.append(
            f"save arrays of shape n×{shape} as concept.npy (examples with the concept) and reference.npy (without)"
        )
    absent = (folder / "concept.npy", folder / "reference.npy")
    concept, reference = (likely[0], likely[-1]) if len(likely) > 1 else absent
    name, reference_name = _name(concept.stem), _name(reference.stem)
    text = f"""\
examples:
  {reference_name}: {{arrays: {_relative(reference, folder)}}}
  {name}: {{arrays: {_relative(concept, folder)}}}
"""
    return Body(text, _question(name, name, reference_name, reference_name), todo)


def _question(concept: str, shown: str, reference: str, at: str) -> str:
    """Concept, target and gate; `{output}` remains to be filled in."""
    return f"""
# A concept: examples that show it, against a reference set that does not.
concepts:
  {concept}: {{{{examples: {shown}, against: {reference}}}}}

# The output that the concept may influence, measured at these examples; `index` is the class.
targets:
  answer: {{{{{{output}}, examples: {at}}}}}

# The command exits with 1 if the effect exceeds `tolerance` (in standard deviations of the target).
gate:
  - {{{{concept: {concept}, target: answer, must: not_matter, tolerance: 0.1}}}}
"""


def _picture_size(tensor: Tensor) -> int | None:
    """Height and width of a picture input, None for other inputs; 224 where the model does not fix it."""
    if len(tensor.shape) != 4:
        return None
    spatial = tensor.shape[1:3] if tensor.shape[3] in (1, 3) else tensor.shape[2:4]
    if tensor.shape[3] not in (1, 3) and tensor.shape[1] not in (1, 3):
        return None
    known = [size for size in spatial if isinstance(size, int) and size > 0]
    return known[0] if known else 224


def _picture_folders(places: list[Path]) -> dict[Path, int]:
    """Folders with pictures directly in `places`, and the number of pictures in each."""
    found: dict[Path, int] = {}
    for place in places:
        for one in sorted(place.iterdir()):
            if one.is_dir() and not one.name.startswith(".") and (count := len(files_in(one))):
                found[one] = count
    return found


def _files(places: list[Path], suffix: str) -> list[Path]:
    """Files with a suffix in these folders and their direct subfolders."""
    return list(dict.fromkeys(path for place in places for path in _near(place, suffix)))


def _near(place: Path, suffix: str) -> Iterator[Path]:
    for pattern in (f"*{suffix}", f"*/*{suffix}"):
        yield from sorted(path for path in place.glob(pattern) if not path.parent.name.startswith("."))


def _columns(path: Path) -> Columns:
    """The columns of a CSV file, judged by its first rows; none where it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            numeric = dict.fromkeys(header, True)
            counts = {column: {0.0: 0, 1.0: 0} for column in header}
            for row in islice(rows, ROWS_READ):
                for column, cell in zip(header, row, strict=False):
                    value = _number(cell)
                    if value is None:
                        numeric[column] &= not cell.strip()
                    elif column in counts and value in counts[column]:
                        counts[column][value] += 1
                    else:
                        counts.pop(column, None)
    except (OSError, UnicodeDecodeError, csv.Error):
        return Columns([], {})
    kept = [column for column in header if numeric[column]]
    binary = {column: (counts[column][0.0], counts[column][1.0]) for column in kept if column in counts}
    return Columns(
        kept, {column: rows for column, rows in binary.items() if min(rows) > 0 and not OUTCOME.match(column)}
    )


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _rows(path: Path, tensor: Tensor) -> int | None:
    """The number of examples in a `.npy`, read from its header; None where they do not fit the input's shape."""
    try:
        with path.open("rb") as file:
            if file.read(6) != b"\x93NUMPY":
                return None
            wide = file.read(2)[0] > 1
            (length,) = struct.unpack("<I" if wide else "<H", file.read(4 if wide else 2))
            shape = ast.literal_eval(file.read(min(length, 10_000)).decode("latin1"))["shape"]
    except (OSError, ValueError, KeyError, SyntaxError, struct.error, IndexError, TypeError):
        return None
    fits = len(shape) == len(tensor.shape) and all(
        not isinstance(size, int) or size == found for size, found in zip(tensor.shape[1:], shape[1:], strict=True)
    )
    return int(shape[0]) if fits else None


def _width(tensor: Tensor) -> int | None:
    """The size of a tensor's last axis, where that is known."""
    last = tensor.shape[-1] if len(tensor.shape) > 1 else 1
    return last if isinstance(last, int) else None


def _described(tensor: Tensor) -> str:
    sizes = " × ".join("?" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.name}, {tensor.dtype} {sizes}"


def _relative(path: Path, folder: Path) -> str:
    return _quoted(os.path.relpath(path, folder) + ("/" if path.is_dir() else ""))


def _name(words: str) -> str:
    """Turns the name of a file or column into a valid name of an example set or concept."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", words).strip("_.-")[:60]
    return plain if plain and plain[0].isalnum() else f"set_{plain}".rstrip("_")


def _quoted(text: str) -> str:
    """Text as a YAML scalar, quoted where necessary."""
    simple = re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*", text) and text.lower() not in (
        "true",
        "false",
        "null",
        "yes",
        "no",
    )
    escaped = text.replace("'", "''")
    return text if simple else f"'{escaped}'"
