"""Packs a folder into a tar whose bytes depend only on the names and bytes of its files."""

from __future__ import annotations

import hashlib
import os
import tarfile
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from caveat_spec.audit import Images

_CHUNK = 1 << 20


def is_picture(path: Path) -> bool:
    """Whether a file's name has the suffix of a picture."""
    return path.suffix.lower() in Images.SUFFIXES


def files_in(folder: Path, suffixes: Collection[str] = Images.SUFFIXES) -> dict[str, Path]:
    """The files of some kinds anywhere under `folder`: name in the tar → file, sorted, without hidden ones."""
    found = {
        unicodedata.normalize("NFC", file.relative_to(folder).as_posix()): file
        for file in _files(folder)
        if file.suffix.lower() in suffixes
    }
    return dict(sorted(found.items(), key=lambda entry: entry[0].encode()))


def pack(files: dict[str, Path], into: BinaryIO) -> None:
    """Writes `files` as a tar without times, owners or permissions."""
    with tarfile.open(fileobj=into, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, file in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                tar.addfile(entry, content)


def as_file(path: Path, tar: Path, suffixes: Collection[str] = Images.SUFFIXES) -> Path:
    """`path` itself, or for a folder the `tar` into which its files of some kinds are packed."""
    if not path.is_dir():
        return path
    with tar.open("wb") as into:
        pack(files_in(path, suffixes), into)
    return tar


def digest(file: Path) -> str:
    """The digest of a file: `sha256:` and 64 hexadecimal digits."""
    sha256 = hashlib.sha256()
    for chunk in chunks(file):
        sha256.update(chunk)
    return f"sha256:{sha256.hexdigest()}"


async def async_digest(file: Path) -> str:
    """The same without blocking the event loop."""
    import asyncio  # only asynchronous callers pay for it

    return await asyncio.to_thread(digest, file)


def chunks(file: Path, offset: int = 0) -> Iterator[bytes]:
    """A file's bytes from `offset` on, in chunks of one megabyte."""
    with file.open("rb") as content:
        content.seek(offset)
        while chunk := content.read(_CHUNK):
            yield chunk


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))
