"""What lies beside a model: files and folders in its own folder, in that of the audit file, and one level below."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from caveat_spec.artifacts import Inspection, Tensor
from caveat_spec.audit import Method

FEWEST: int = Method.model_fields["min_examples"].default
MOST_FILES = 500
"""Files of one kind that are looked at."""
REFERENCE = re.compile(
    r"photo|image|picture|random|background|control|without|reference|normal|negative|plain|clean|original|usual"
    r"|(?<![a-z])(all|every\w*|others?|pool|data\w*|base\w*|before|neutral)(?![a-z])",
    re.I,
)
"""Names of what lacks a concept. Short words stand alone: `small` is no `all`."""
SAMPLING_RATE = re.compile(r"^(sr|fs)$|(sampl|frame).*rate", re.I)
SPLITS = ("train", "training", "test", "val", "valid", "validation", "dev")


@dataclass(frozen=True)
class Beside:
    """A model and the places where its data may be; paths in the audit file are relative to `folder`."""

    model: Path
    folder: Path
    inspection: Inspection

    @property
    def inputs(self) -> list[Tensor]:
        """The model's inputs that examples feed."""
        return [one for one in self.inspection.inputs if one.name not in self.constants]

    @cached_property
    def constants(self) -> dict[str, int]:
        """A number for each input that takes one for all examples together, such as a sampling rate."""
        single = [one for one in self.inspection.inputs if one.shape == []]
        found = {one.name: _usual_number(one) for one in single if one.dtype != "string"}
        return found if len(found) < len(self.inspection.inputs) else {}

    @property
    def places(self) -> list[Path]:
        """The folder of the audit file and that of the model, which may be the same."""
        return list(dict.fromkeys(place.resolve() for place in (self.folder, self.model.parent)))

    def files(self, *suffixes: str) -> list[Path]:
        """Files with one of these suffixes, in the order of their names, those nearest to the model's first."""
        found = dict.fromkeys(path for place in self.places for path in _near(place, suffixes))
        return list(found)[:MOST_FILES]

    def relative(self, path: Path) -> str:
        """A path as the audit file names it."""
        return os.path.relpath(path, self.folder.resolve()) + ("/" if path.is_dir() else "")


def likeliest(sets: dict[Path, int]) -> list[Path]:
    """Example sets, the likeliest concept first and the likeliest reference last: by name, then by size."""
    return sorted(sets, key=lambda path: (bool(REFERENCE.search(path.stem)), sets[path], path.name))


def sizes(tensor: Tensor) -> str:
    """The shape of one example in words: `3 x 224 x 224`."""
    return " x ".join(str(size) if isinstance(size, int) else "?" for size in tensor.shape[1:]) or "1"


def described(tensor: Tensor) -> str:
    """A tensor in words: its name, type and shape."""
    shape = " x ".join("?" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.name}, {tensor.dtype} {shape}".rstrip()


def _usual_number(tensor: Tensor) -> int:
    """16,000 for a sampling rate, no for a switch, and otherwise the number that scales nothing."""
    if SAMPLING_RATE.search(tensor.name):
        return 16_000
    return 0 if tensor.dtype == "bool" else 1


def _near(place: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    for pattern in ("*", "*/*"):
        yield from sorted(
            path
            for path in place.glob(pattern)
            if path.suffix.lower() in suffixes and not path.parent.name.startswith(".") and path.is_file()
        )
