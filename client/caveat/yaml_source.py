"""Reads YAML and JSON documents with the position of every value, so that an error can point to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from caveat.positions import Place, Positions
from caveat.problems import ProblemError, problem

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000
"""Most keys and values of a document once its anchors are expanded."""
MAX_DEPTH = 40
MAX_DIGITS = 400

_TAG = "tag:yaml.org,2002:"


def read_document(path: Path) -> tuple[Any, Positions]:
    """The value in a YAML 1.2 or JSON file, and the positions of its parts; raises a `ProblemError` for other files."""
    text = _text(path)
    positions = Positions(path)
    is_json = path.suffix.lower() == ".json"
    if is_json:
        _check_json(path, text)
        text = text.replace("\t", " ")  # in JSON a raw tab is always white space; YAML does not allow it as indentation
    try:
        _check_depth(path, text)
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        raise _at(path, place, f"is not YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        raise _at(path, Place(1, 1), f"is not YAML: {str(error).splitlines()[0]}") from None
    if node is None:
        raise _at(path, Place(1, 1), "is empty")
    value = _Reading(positions).value(node, "", 0)
    return (json.loads(text) if is_json else value), positions


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # a device has no size, and may not end
        if len(content) > MAX_BYTES:
            raise _at(path, Place(1, 1), f"is larger than {MAX_BYTES:,} bytes")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise problem(
            "no-such-file", 422, f"There is no file {path}.", f"Check the path; you are in {Path.cwd()}."
        ) from None
    except UnicodeDecodeError as error:
        raise _at(path, Place(1, 1), f"is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise problem(
            "unreadable-file", 422, f"{path} cannot be read: {error.strerror}.", "Name a file that you may read."
        ) from None


def _check_depth(path: Path, text: str) -> None:
    """Rejects deep nesting before the parser builds nodes from it."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent)
        depth -= isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            place = Place(event.start_mark.line + 1, event.start_mark.column + 1)
            raise _at(path, place, f"is nested more than {MAX_DEPTH} levels deep")


def _check_json(path: Path, text: str) -> None:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise _at(path, Place(error.lineno, error.colno), f"is not JSON: {error.msg}") from None
    except ValueError:
        raise _at(path, Place(1, 1), "has a number of too many digits") from None
    except RecursionError:
        raise _at(path, Place(1, 1), f"is nested more than {MAX_DEPTH} levels deep") from None


class _Reading:
    """Converts a YAML graph into plain values, with a limit on their number."""

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self._left = MAX_VALUES

    def value(self, node: Node, pointer: str, depth: int) -> Any:
        """The plain value of `node`; records its position under `pointer`."""
        place = _place(node)
        self._positions.values[pointer] = place
        self._spend(place)
        if depth > MAX_DEPTH:
            raise self._error(place, f"is nested more than {MAX_DEPTH} levels deep")
        match node:
            case MappingNode():
                return {
                    key: self.value(child, f"{pointer}/{_escaped(key)}", depth + 1)
                    for key, child in self._entries(node, pointer, depth)
                }
            case SequenceNode():
                return [self.value(child, f"{pointer}/{i}", depth + 1) for i, child in enumerate(node.value)]
            case _:
                return self._scalar(node)

    def _entries(self, node: MappingNode, pointer: str, depth: int) -> Iterator[tuple[str, Node]]:
        """The entries of a mapping, its own before those it merges with `<<`."""
        if depth > MAX_DEPTH:
            raise self._error(_place(node), f"is nested more than {MAX_DEPTH} levels deep")
        seen: set[str] = set()
        merged: list[Node] = []
        for key_node, child in node.value:
            self._spend(_place(key_node))
            if key_node.tag == f"{_TAG}merge":
                merged += child.value if isinstance(child, SequenceNode) else [child]
                continue
            if not isinstance(key_node, ScalarNode):
                raise self._error(_place(key_node), "has a key that is not a name")
            key = str(key_node.value)
            if key in seen:
                raise self._error(_place(key_node), f"has the key '{key}' twice")
            seen.add(key)
            self._positions.keys.setdefault(f"{pointer}/{_escaped(key)}", _place(key_node))
            yield key, child
        for other in merged:
            if not isinstance(other, MappingNode):
                raise self._error(_place(other), "merges ('<<') something that is not a mapping")
            for key, child in self._entries(other, pointer, depth + 1):
                if key not in seen:
                    seen.add(key)
                    yield key, child

    def _spend(self, place: Place) -> None:
        self._left -= 1
        if self._left < 0:
            raise self._error(place, f"expands to more than {MAX_VALUES:,} keys and values; use fewer anchors")

    def _scalar(self, node: Node) -> Any:
        text = str(node.value)
        match str(node.tag).removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int" | "float" as kind:
                try:
                    return _number(text, kind)
                except ValueError:
                    raise self._error(_place(node), f"has the number {text[:40]}, which cannot be read") from None
            case "str" | "timestamp":  # dates stay text
                return text
        raise self._error(_place(node), f"has the tag {node.tag}, which is not supported")

    def _error(self, place: Place, sentence: str) -> ProblemError:
        return _at(self._positions.path, place, sentence)


def _number(text: str, kind: str) -> int | float:
    """A number of YAML 1.2, such as `0x1f`, `0o17`, `1_000` or `.inf`."""
    if len(text) > MAX_DIGITS:
        raise ValueError(text)
    plain = text.replace("_", "").lower()
    if kind == "int":
        return int(plain.lstrip("+-"), 0 if plain.lstrip("+-")[:2] in ("0x", "0o", "0b") else 10) * (
            -1 if plain.startswith("-") else 1
        )
    return float(plain.replace(".inf", "inf").replace(".nan", "nan"))


def _place(node: Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _escaped(key: str) -> str:
    """A key as one part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def _at(path: Path, place: Place, sentence: str) -> ProblemError:
    return problem(
        "unreadable-document",
        422,
        f"{path}:{place.line}:{place.column}: the file {sentence}.",
        "`caveat init model.onnx` writes an audit file to start from.",
    )
