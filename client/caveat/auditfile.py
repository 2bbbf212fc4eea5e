"""The audit file: reads it, validates it, and replaces its paths by digests."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from caveat.pack import Content, addressed, contents, is_picture
from caveat.positions import Positions
from caveat.problems import ProblemError, at
from caveat.remote_sources import SourceFault, fetch
from caveat.yaml_source import read_document
from caveat_spec.audit import Audit, GateLine
from caveat_spec.base import Document
from caveat_spec.problem import Fault, ProblemDetails
from caveat_spec.source_urls import is_url

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LEADING_POINTER = re.compile(r"(?:Value error, )?(/\S+) ")


class Policy(Document):
    """A gate on its own, by which an existing report is decided again."""

    gate: list[GateLine]


LONGEST_VALUE = 200
"""Characters of a faulty value that a sentence shows."""
T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class AuditFile:
    """An audit with paths, as its author wrote it, and the positions of its parts in the file."""

    audit: Audit
    positions: Positions


@dataclass(frozen=True)
class Resolved:
    """An audit with digests (or URLs) in place of paths, and the files that hold those bytes."""

    audit: Audit
    blobs: dict[str, Content]
    """Digest → file or archive; sources that the audit names by digest are not included."""
    notes: list[str]
    """Sentences for the user: which files were left out."""


def read_audit(path: Path) -> AuditFile:
    """Reads an audit from a YAML or JSON file; raises a `ProblemError` whose faults point into the file."""
    value, positions = read_document(path)
    return AuditFile(checked(Audit, value, positions), positions)


def read_policy(path: Path) -> tuple[Policy, Positions]:
    """Reads the gate from a YAML or JSON file and ignores the other fields of an audit file."""
    value, positions = read_document(path)
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if key == "gate" or key not in Audit.model_fields}
    return checked(Policy, value, positions), positions


SCHEMA = "`caveat schema` prints the JSON Schema of an audit file, which editors can check as you type."


def checked(kind: type[T], value: Any, positions: Positions, code: str = "invalid-audit", remedy: str = SCHEMA) -> T:
    """Validates `value` as strictly as the API does; raises a `ProblemError` with every fault."""
    try:
        return kind.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        faults = _faults(kind, value, error.errors())
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        said = ProblemDetails.of(code, 422, f"{positions.path} has {count}.", remedy, faults)
        raise ProblemError(said, positions) from None


def _faults(kind: type[BaseModel], value: Any, errors: list[ErrorDetails]) -> list[Fault]:
    """One fault for each error of an invalid document."""
    fields = partial(_fields_at, kind)
    located = [(_pointer(value, one), one) for one in errors]
    return [
        Fault(pointer=pointer, detail=_sentence(pointer, one, fields))
        for pointer, one in located
        if not _is_union_branch(one) or not any(other.startswith(f"{pointer}/") for other, _ in located)
    ]


def fetched(file: AuditFile, folder: Path) -> AuditFile:
    """The audit with a file in `folder` in place of each URL; raises a `ProblemError` where one cannot be fetched."""
    sources, faults = file.audit.sources(), []
    for number, (pointer, source) in enumerate(sources.items()):
        if is_url(source):
            try:
                sources[pointer] = str(fetch(source, folder / str(number)))
            except SourceFault as error:
                faults.append(Fault(pointer=pointer, detail=str(error)))
    if faults:
        raise ProblemError(
            ProblemDetails.of(
                "sources-not-fetched",
                422,
                f"{file.positions.path} names URLs that cannot be fetched.",
                "Check the address, the credentials in the environment and the digest, or name a file.",
                faults,
            ),
            file.positions,
        )
    return replace(file, audit=file.audit.with_sources(sources))


def resolve(file: AuditFile) -> Resolved:
    """Hashes every file and folder that the audit names; raises a `ProblemError` on bad ones.

    URLs stay: `fetched` replaces those that are not the service's to fetch.
    """
    digests: dict[str, str] = {}
    blobs: dict[str, Content] = {}
    notes: list[str] = []
    faults: list[Fault] = []
    for pointer, source in file.audit.sources().items():
        if _DIGEST.fullmatch(source) or is_url(source):
            digests[pointer] = source
            continue
        path = file.positions.path.parent / source
        fault = _unusable(file.audit, pointer, source, path)
        if fault is not None:
            faults.append(Fault(pointer=pointer, detail=fault))
            continue
        with at(pointer):
            content, digests[pointer] = addressed(path)
        blobs[digests[pointer]] = content
        if left_out := _left_out(path):
            suffixes = ", ".join(sorted(_expected(file.audit, pointer)[1]))
            files = "1 file of another kind" if left_out == 1 else f"{left_out} files of other kinds"
            notes.append(f"{source}: left out {files} than {suffixes}.")
    if faults:
        raise ProblemError(
            ProblemDetails.of(
                "missing-files",
                422,
                f"{file.positions.path} names files that cannot be used.",
                f"Paths are relative to the audit file's folder, {file.positions.path.parent.absolute()}.",
                faults,
            ),
            file.positions,
        )
    return Resolved(file.audit.with_sources(digests), blobs, list(dict.fromkeys(notes)))


def _unusable(audit: Audit, pointer: str, source: str, path: Path) -> str | None:
    """Why the file or folder at `path` cannot be the source at `pointer`; None where it can."""
    expected, suffixes = _expected(audit, pointer)
    if not path.exists():
        return f"there is no '{source}'{_nearest(path)}"
    if path.is_dir():
        if not suffixes:
            return f"'{source}' is a folder; name one file: {expected}"
        if not any(file.suffix.lower() in suffixes for file in contents(path).values()):
            return f"the folder '{source}' holds no file that can be read here ({', '.join(sorted(suffixes))})"
        return None
    if not path.is_file():
        return f"'{source}' is neither a file nor a folder"
    if path.stat().st_size == 0:
        return f"'{source}' is empty"
    if is_picture(path):
        folder = ", or a folder of them" if path.suffix.lower() in suffixes else ""
        return f"'{source}' is a single picture; name {expected}{folder}"
    return None


def _expected(audit: Audit, pointer: str) -> tuple[str, frozenset[str]]:
    """What the source at `pointer` is, in words, and the endings of files that it may be a folder of."""
    *place, field = pointer.removeprefix("/").split("/")
    if place[:1] != ["examples"]:
        return audit.FILES[field], frozenset()
    examples = audit.examples[place[1]]
    return examples.SOURCES[field], examples.FOLDERS.get(field, frozenset())


def _nearest(path: Path) -> str:
    """`; did you mean …?` if a sibling has a similar name."""
    if not path.parent.is_dir():
        return f"; nor is there a folder '{path.parent}'"
    close = difflib.get_close_matches(path.name, [one.name for one in path.parent.iterdir()], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _left_out(path: Path) -> int:
    """How many files of a folder are not sent."""
    visible = [one for one in path.rglob("[!.]*") if one.is_file()] if path.is_dir() else []
    return len(visible) - len(contents(path)) if visible else 0


def _pointer(value: Any, error: ErrorDetails) -> str:
    """The JSON pointer of a fault into `value`: pydantic's location without the names of union members."""
    named = _LEADING_POINTER.match(error["msg"])
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
    """Whether a fault may merely mean that a value is not the first member of a union."""
    return error["type"].endswith(("_type", "_parsing")) or error["type"] == "literal_error"


def _sentence(pointer: str, error: ErrorDetails, fields: Callable[[tuple[int | str, ...]], set[str]]) -> str:
    """Pydantic's message, reworded for the author of an audit file; `fields` are those that a place has."""
    last = next((str(part) for part in reversed(error["loc"]) if part != "[key]"), "")
    label = pointer.lstrip("/").replace("/", ".")
    match error["type"]:
        case "missing":
            return f"'{last}' is missing"
        case "extra_forbidden":
            close = difflib.get_close_matches(last, sorted(fields(error["loc"][:-1])), n=1)
            return f"'{last}' is not a field here" + (f"; did you mean '{close[0]}'?" if close else "")
        case "value_error" | "unknown_kind_of_examples" | "unknown_kind_of_gate_line":
            message = error["msg"].removeprefix("Value error, ")
            return message[:1].lower() + message[1:]
        case "string_pattern_mismatch" if error["loc"][-1:] == ("[key]",):
            return f"'{last}' is not a valid name: use at most 64 letters, digits, '_', '.' and '-'"
    given = error["input"]
    shown = f" (it is {_shortened(json.dumps(given))})" if isinstance(given, str | int | float | bool) else ""
    shown = " (it is empty)" if given is None else shown
    message = error["msg"].removeprefix("Input ").removeprefix("String ")
    return f"{label or 'the file'} {message[:1].lower()}{message[1:]}{shown}"


def _shortened(text: str) -> str:
    """A value as far as a line of a terminal shows it: somebody may name a table as the audit file."""
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} …"


def _fields_at(kind: type[BaseModel], place: tuple[int | str, ...]) -> set[str]:
    """The fields of the mapping at a place, which pydantic names with the kind of an example set or of a gate line."""
    schema = _schema(kind)
    here = [schema]
    for step in place:
        there = [one for schemas in here for one in _alternatives(schema, schemas)]
        kinds = [one for one in there if step in one.get("properties", {}) and "discriminator" not in one]
        if len(there) > 1 and kinds:  # the name of an alternative is that of the field that only it has
            here = kinds
        else:
            here = [
                found
                for one in there
                for found in (one.get("properties", {}).get(step), one.get("additionalProperties"), one.get("items"))
                if isinstance(found, dict)
            ]
    return {name for schemas in here for one in _alternatives(schema, schemas) for name in one.get("properties", {})}


@cache
def _schema(kind: type[BaseModel]) -> dict[str, Any]:
    return kind.model_json_schema()


def _alternatives(schema: dict[str, Any], one: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schemas that a value may have: what a reference names, and each member of a union."""
    if "$ref" in one:
        yield from _alternatives(schema, schema["$defs"][one["$ref"].rpartition("/")[2]])
    elif members := [*one.get("anyOf", []), *one.get("oneOf", [])]:
        for member in members:
            yield from _alternatives(schema, member)
    else:
        yield one
