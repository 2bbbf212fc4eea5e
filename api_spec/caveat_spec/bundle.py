"""A bundle: a model and the files of its external data as one uncompressed tar, whose digest is the model's.

The model is its first file; data files have the names that the model gives them. No bundle can be read as a model by
itself, in which case what is audited and what is deployed under one digest might differ.
"""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

MODEL = "model.onnx"
"""The name of the model in a bundle."""
_STARTS = (f"{MODEL}\0".encode(), b"./", b"PaxHeader/")
"""How a bundle begins: with the model, or with a folder or header as several programs write them. None of these bytes
begin a protobuf message, which would have a field of wire type 6 or 7 there."""


def is_bundle(start: bytes) -> bool:
    """Whether a file that begins with these bytes, at least 262, is a bundle."""
    return is_tar(start) and start.startswith(_STARTS)


def is_tar(start: bytes) -> bool:
    """Whether a file that begins with these bytes, at least 262, is an uncompressed tar."""
    return start[257:262] == b"ustar"


def entry_of(location: str) -> str | None:
    """The entry of the data file at this location; None for a location that may be outside the model's folder."""
    path, on_windows = PurePosixPath(location), PureWindowsPath(location)
    leaves = on_windows.anchor or ".." in on_windows.parts or "\0" in location
    return None if leaves or not path.parts or str(path) == MODEL else str(path)


def file_at(folder: Path, location: str) -> Path | None:
    """The data file at this location beside a model; None if there is none, or if its bytes may be elsewhere.

    Links are followed only inside the folder, and a file with a second name (a hard link) counts as elsewhere.
    """
    if entry_of(location) is None:
        return None
    try:
        path = (folder / location).resolve(strict=True)
        found = path.lstat()
    except (OSError, ValueError):
        return None
    own = path.is_relative_to(folder.resolve()) and stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    return path if own else None
