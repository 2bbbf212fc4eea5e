"""A folder of pictures as one tar whose bytes depend on the pictures' names and bytes, and on nothing else."""

from __future__ import annotations

import hashlib
import os
import tarfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
_CHUNK = 1 << 20


def pictures(folder: Path) -> dict[str, Path]:
    """The pictures anywhere under `folder`: name in the tar → file, sorted by name; hidden ones are left out."""
    found = {
        unicodedata.normalize("NFC", file.relative_to(folder).as_posix()): file
        for file in _files(folder)
        if file.suffix.lower() in PICTURES
    }
    return dict(sorted(found.items(), key=lambda entry: entry[0].encode()))


def pack(files: dict[str, Path], into: BinaryIO) -> None:
    """Writes `files` as a tar without clocks, owners or permissions."""
    with tarfile.open(fileobj=into, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, file in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                tar.addfile(entry, content)


def as_file(path: Path, tar: Path) -> Path:
    """The one file whose bytes stand for `path`: a folder's pictures are packed into `tar`."""
    if not path.is_dir():
        return path
    with tar.open("wb") as into:
        pack(pictures(path), into)
    return tar


def digest(file: Path) -> str:
    """The digest of a file's bytes."""
    sha256 = hashlib.sha256()
    for chunk in chunks(file):
        sha256.update(chunk)
    return f"sha256:{sha256.hexdigest()}"


def chunks(file: Path, offset: int = 0) -> Iterator[bytes]:
    """A file's bytes from `offset` on, a megabyte at a time."""
    with file.open("rb") as content:
        content.seek(offset)
        while chunk := content.read(_CHUNK):
            yield chunk


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))
