"""Where the parts of a document stand in its file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """A line and a column, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Positions:
    """The positions of a document's keys and values, by JSON pointer."""

    path: Path
    keys: dict[str, Place] = field(default_factory=dict)
    values: dict[str, Place] = field(default_factory=dict)

    def of(self, pointer: str, *, key: bool = False) -> Place:
        """The position of `pointer`, or of its nearest parent that exists."""
        while pointer:
            if pointer in self.values:
                place = self.keys.get(pointer) if key else None
                return place or self.values[pointer]
            pointer, key = pointer.rpartition("/")[0], True
        return Place(1, 1)

    def where(self, pointer: str) -> str:
        """The position as `audit.yaml:7:14`, which editors and terminals can open."""
        place = self.of(pointer)
        return f"{self.path}:{place.line}:{place.column}"
