"""What is hashed and sent for a path: a file, or an archive of several whose bytes depend only on names and contents.

A folder stands for its pictures or else its dataset, and a model for itself and its data files (`caveat_spec.bundle`).
An archive is a tar that is made while it is read: no copy of it is kept in memory or on the disk.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from caveat.external_data import Reference, references
from caveat.problems import ProblemError, problem
from caveat_spec.audit import DATASETS, Images
from caveat_spec.bundle import MODEL, entry_of, file_at

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A tar of files without times, owners or permissions, made while it is read."""

    path: Path
    """The model or the folder that it stands for."""
    files: Mapping[str, Path]
    """Name in the archive → file, in the archive's order."""

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The name of the model or the folder."""
        return self.path.name

    @property
    def size(self) -> int:
        """Number of bytes."""
        return sum(size for _, size in self._segments)

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """The bytes from `offset` on; raises a `ProblemError` if a file has become shorter."""
        for segment, size in self._segments:
            if offset < size:
                yield from [segment[offset:]] if isinstance(segment, bytes) else _part(segment, offset, size)
            offset = max(offset - size, 0)

    @cached_property
    def _segments(self) -> list[tuple[bytes | Path, int]]:
        """Headers, files and padding, each with its size."""
        segments: list[tuple[bytes | Path, int]] = []
        for name, file in self.files.items():
            entry = tarfile.TarInfo(name)
            entry.size = file.stat().st_size
            header = entry.tobuf(tarfile.PAX_FORMAT)
            padding = bytes(-entry.size % tarfile.BLOCKSIZE)
            segments += [(header, len(header)), (file, entry.size), (padding, len(padding))]
        end = 2 * tarfile.BLOCKSIZE
        end += -(sum(size for _, size in segments) + end) % tarfile.RECORDSIZE
        return [*segments, (bytes(end), end)]


Content: TypeAlias = Path | Archive
"""Bytes with a digest: those of a file, or an archive."""


def content_of(path: Content) -> Content:
    """What is hashed and sent for a file or folder; raises a `ProblemError` for a model without its data files."""
    if isinstance(path, Archive):
        return path
    if path.is_dir():
        return Archive(path, contents(path))
    found = references(path)
    return Archive(path, {MODEL: path} | _data_files(path, found)) if found else path


def addressed(path: Content) -> tuple[Content, str]:
    """What is hashed and sent for a file or folder, and its digest."""
    content = content_of(path)
    return content, digest(content)


async def async_addressed(path: Content) -> tuple[Content, str]:
    """The same without blocking the event loop."""
    import asyncio  # only asynchronous callers pay for it

    return await asyncio.to_thread(addressed, path)


def digest(content: Content) -> str:
    """The digest of a file or archive: `sha256:` and 64 hexadecimal digits."""
    sha256 = hashlib.sha256()
    for chunk in chunks(content):
        sha256.update(chunk)
    return f"sha256:{sha256.hexdigest()}"


def size_of(content: Content) -> int:
    """The size of a file or archive in bytes."""
    return content.size if isinstance(content, Archive) else content.stat().st_size


def chunks(content: Content, offset: int = 0) -> Iterator[bytes]:
    """The bytes of a file or archive from `offset` on, in chunks of at most a megabyte."""
    if isinstance(content, Archive):
        yield from content.chunks(offset)
        return
    with content.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(_CHUNK):
            yield chunk


def is_picture(path: Path) -> bool:
    """Whether a file's name has the suffix of a picture."""
    return path.suffix.lower() in Images.SUFFIXES


def contents(folder: Path) -> dict[str, Path]:
    """What a folder stands for: its pictures, or if it has none its Parquet and Arrow files."""
    return pictures(folder) or _of_kinds(folder, DATASETS)


def pictures(folder: Path) -> dict[str, Path]:
    """The pictures anywhere under `folder`: name in the archive → file, sorted by name, without hidden ones."""
    return _of_kinds(folder, Images.SUFFIXES)


def _of_kinds(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    found = {
        unicodedata.normalize("NFC", file.relative_to(folder).as_posix()): file
        for file in _files(folder)
        if file.suffix.lower() in suffixes
    }
    return dict(sorted(found.items(), key=lambda entry: entry[0].encode()))


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _data_files(model: Path, found: list[Reference]) -> dict[str, Path]:
    """The data files of a model: name in the archive → file, sorted by name."""
    longest: dict[str, Reference] = {}
    for one in found:
        longest[one.location] = max(one, longest.get(one.location, one), key=lambda reference: reference.end)
    files = {entry_of(one.location) or "": _data_file(model, one) for one in longest.values()}
    return dict(sorted(files.items(), key=lambda entry: entry[0].encode()))


def _data_file(model: Path, reference: Reference) -> Path:
    """The file with a tensor's numbers; raises a `ProblemError` where it is not beside the model or too short."""
    location = reference.location
    if entry_of(location) is None:
        raise _no_data(
            f"The weights '{reference.tensor}' of {model} are in '{location}', which is not a file beside the model "
            "or in a folder beside it.",
            "Export the model again: its data files belong into its own folder, and none of them may be called "
            f"{MODEL} unless it is the model.",
        )
    if not (model.parent / location).is_file():
        raise _no_data(
            f"{model} has weights in '{location}', and there is no such file beside it.",
            "Put the file that the export wrote there, under that name, or export the model as one file: "
            "torch.onnx.export(..., external_data=False).",
        )
    file = file_at(model.parent, location)
    if file is None:
        raise _no_data(
            f"{model} has weights in '{location}', which is a link.",
            "A link may lead to any file, and its bytes would be sent with the model: put a copy in its place.",
        )
    size = file.stat().st_size
    if size < reference.end:
        raise _no_data(
            f"{model} reads '{location}' up to byte {reference.end:,}, and that file has {size:,} bytes.",
            "The file is cut off, or belongs to another export: copy the model and its data files again, together.",
        )
    return file


def _no_data(detail: str, remedy: str) -> ProblemError:
    return problem("external-data", 422, detail, remedy)


def _part(file: Path, offset: int, size: int) -> Iterator[bytes]:
    """The bytes of a file from `offset` to `size`."""
    with file.open("rb") as content:
        content.seek(offset)
        while offset < size:
            chunk = content.read(min(_CHUNK, size - offset))
            if not chunk:
                raise changed_file(file)
            yield chunk
            offset += len(chunk)


def changed_file(file: Content) -> ProblemError:
    """The problem of a file that changed between two times that it was read."""
    return problem(
        "changed-file", 409, f"{file} changed while it was read.", "Run the audit again when nothing writes to it."
    )
