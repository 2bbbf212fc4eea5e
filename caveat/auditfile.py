"""The audit file: read, checked against the contract, and its paths turned into digests."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from api_spec.audit import Audit, GateLine
from api_spec.base import Document
from api_spec.problem import Fault, Problem
from caveat.document import Positions, read_document
from caveat.pack import PICTURES, as_file, digest, pictures
from caveat.problems import ProblemError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_POINTER_FIRST = re.compile(r"(?:Value error, )?(/\S+) ")


class Policy(Document):
    """The lines of a gate on their own, to decide a report again."""

    gate: list[GateLine]


T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class AuditFile:
    """An audit as its author wrote it, with paths, and where each part of it stands."""

    audit: Audit
    positions: Positions


@dataclass(frozen=True)
class Resolved:
    """An audit with digests in place of paths, and the files that hold those bytes."""

    audit: Audit
    blobs: dict[str, Path]
    """Digest → file; what was already a digest is not among them."""
    notes: list[str]
    """What a person may want to know: files that were left out."""


def read_audit(path: Path) -> AuditFile:
    """The audit in a YAML or JSON file; raises a problem whose faults point into it."""
    value, positions = read_document(path)
    return AuditFile(checked(Audit, value, positions), positions)


def read_policy(path: Path) -> tuple[Policy, Positions]:
    """The gate in a YAML or JSON file, whatever else an audit file may hold beside it."""
    value, positions = read_document(path)
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if key == "gate" or key not in Audit.model_fields}
    return checked(Policy, value, positions), positions


def checked(kind: type[T], value: Any, positions: Positions) -> T:
    """`value` as a `kind`, by the same strict rules as the API; raises a problem with every fault in it."""
    try:
        return kind.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise ProblemError(_invalid(value, error.errors(), positions), positions) from None


def _invalid(value: Any, errors: list[ErrorDetails], positions: Positions) -> Problem:
    """The problem of a document that breaks the contract: one fault for each thing that is wrong."""
    located = [(_pointer(value, one), one) for one in errors]
    faults = [
        Fault(pointer=pointer, detail=_sentence(pointer, one))
        for pointer, one in located
        if not _is_union_branch(one) or not any(other.startswith(f"{pointer}/") for other, _ in located)
    ]
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return Problem.of(
        "invalid-audit",
        422,
        f"{positions.path} has {count}.",
        "`caveat schema` prints the JSON Schema of an audit file, which editors can check as you type.",
        faults,
    )


def resolve(file: AuditFile, scratch: Path) -> Resolved:
    """Finds, packs (into `scratch`) and hashes every file the audit names; raises a problem naming the unfit ones."""
    digests: dict[str, str] = {}
    blobs: dict[str, Path] = {}
    notes: list[str] = []
    faults: list[Fault] = []
    for pointer, source in file.audit.sources().items():
        if _DIGEST.fullmatch(source):
            digests[pointer] = source
            continue
        path = file.positions.path.parent / source
        fault = _unfit(pointer, source, path)
        if fault is not None:
            faults.append(Fault(pointer=pointer, detail=fault))
            continue
        blob, left_out = _blob(path, scratch / f"{len(digests)}.tar")
        digests[pointer] = digest(blob)
        blobs[digests[pointer]] = blob
        if left_out:
            what = "1 file is no picture" if left_out == 1 else f"{left_out} files are no pictures"
            notes.append(f"{source}: {what} ({_listed(PICTURES)}) and {'was' if left_out == 1 else 'were'} left out.")
    if faults:
        raise ProblemError(
            Problem.of(
                "missing-files",
                422,
                f"{file.positions.path} names files that cannot be used.",
                f"Paths are relative to the audit file, so to {file.positions.path.parent.absolute()}.",
                faults,
            ),
            file.positions,
        )
    return Resolved(file.audit.with_sources(digests), blobs, notes)


def _unfit(pointer: str, source: str, path: Path) -> str | None:
    """Why the file at `path` cannot be what the audit says it is."""
    kind = pointer.rpartition("/")[2]
    if not path.exists():
        return f"there is no '{source}'{_nearest(path)}"
    if path.is_dir():
        if kind != "images":
            return f"'{source}' is a folder, and {_WANTED[kind]} is one file"
        if not pictures(path):
            return f"the folder '{source}' holds no pictures ({_listed(PICTURES)})"
        return None
    if not path.is_file():
        return f"'{source}' is neither a file nor a folder"
    if path.stat().st_size == 0:
        return f"'{source}' is empty"
    if kind == "images" and path.suffix.lower() in PICTURES:
        return f"'{source}' is one picture; name a folder of pictures, a zip or a tar"
    return None


_WANTED = {
    "model": "an ONNX model",
    "gradient": "a gradient graph (.onnx)",
    "arrays": "an array (.npy, .npz)",
    "table": "a table (.csv, .parquet)",
}


def _nearest(path: Path) -> str:
    """`; did you mean …?`, where a sibling has a similar name."""
    if not path.parent.is_dir():
        return f"; nor is there a folder '{path.parent}'"
    close = difflib.get_close_matches(path.name, [one.name for one in path.parent.iterdir()], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _blob(path: Path, tar: Path) -> tuple[Path, int]:
    """The file whose bytes stand for `path`, and how many files of a folder were left out of it."""
    visible = (one for one in path.rglob("[!.]*") if one.is_file()) if path.is_dir() else ()
    return as_file(path, tar), sum(one.suffix.lower() not in PICTURES for one in visible)


def _pointer(value: Any, error: ErrorDetails) -> str:
    """Where a fault is, as a JSON pointer into `value`: pydantic's location without the names of union members."""
    named = _POINTER_FIRST.match(error["msg"])
    if named and not error["loc"]:
        return named[1]
    loc = [part for part in error["loc"] if part != "[key]"]
    if len(loc) > 2 and loc[0] in ("examples", "gate"):
        del loc[2]  # the kind of example set, or of gate line
    pointer, here = "", value
    for part in loc:
        if part in (here if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()):
            here = here[part]
            pointer += f"/{str(part).replace('~', '~0').replace('/', '~1')}"
    return pointer


def _is_union_branch(error: ErrorDetails) -> bool:
    """Whether a fault may only say that a value is not the first of several kinds that it could be."""
    return error["type"].endswith(("_type", "_parsing")) or error["type"] == "literal_error"


def _sentence(pointer: str, error: ErrorDetails) -> str:
    """Pydantic's message in the words of an author."""
    last = next((str(part) for part in reversed(error["loc"]) if part != "[key]"), "")
    label = pointer.lstrip("/").replace("/", ".")
    match error["type"]:
        case "missing":
            return f"'{last}' is missing"
        case "extra_forbidden":
            close = difflib.get_close_matches(last, _fields(), n=1)
            return f"'{last}' means nothing here" + (f"; did you mean '{close[0]}'?" if close else "")
        case "value_error" | "unknown_kind_of_examples" | "unknown_kind_of_gate_line":
            message = error["msg"].removeprefix("Value error, ")
            return message[:1].lower() + message[1:]
        case "string_pattern_mismatch" if error["loc"][-1:] == ("[key]",):
            return f"'{last}' is not a name: use letters, digits, '_', '.' and '-', 64 at most"
    given = error["input"]
    said = f" (it is {json.dumps(given)})" if isinstance(given, str | int | float | bool) else ""
    said = " (it is empty)" if given is None else said
    message = error["msg"].removeprefix("Input ").removeprefix("String ")
    return f"{label or 'the file'} {message[:1].lower()}{message[1:]}{said}"


@cache
def _fields() -> list[str]:
    """Every field that an audit file may have anywhere."""
    schema = Audit.model_json_schema()
    kinds = [schema, *schema.get("$defs", {}).values()]
    return sorted({name for kind in kinds for name in kind.get("properties", {})})


def _listed(words: set[str]) -> str:
    return ", ".join(sorted(words))
