"""Files in a zip or an uncompressed tar, each read when it is needed."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.source import is_zip

MAX_ENTRIES = 200_000
MAX_ENTRY_BYTES = 64 * 2**20
MAX_TOTAL_BYTES = 16 * 2**30

Entries = dict[str, Callable[[], bytes]]
"""Name of a file → function that reads it."""


def entries_of(path: Path) -> Entries:
    """The files of an archive in the order of their names; raises `InvalidInput` for one that cannot be read."""
    return dict(sorted((_zip_entries(path) if is_zip(path) else _tar_entries(path)).items()))


def _zip_entries(path: Path) -> Entries:
    """The files of a zip: name → function that reads it; raises `InvalidInput` for sizes over the limits."""
    try:
        archive = zipfile.ZipFile(path)
        members = [member for member in archive.infolist() if not member.is_dir()]
    except Exception as error:  # malformed bytes make the library raise almost anything
        raise _not_an_archive(error) from error
    _check_sizes([(member.filename, member.file_size) for member in members])
    return {member.filename: partial(_read_zip, archive, member) for member in members}


def _read_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as stream:
            return stream.read(MAX_ENTRY_BYTES)
    except MemoryError:
        raise
    except Exception as error:  # each kind of compression has its own
        raise corrupt_picture(member.filename, error) from error


def _tar_entries(path: Path) -> Entries:
    """The regular files of an uncompressed tar: name → function that reads it.

    Raises `InvalidInput` for sizes over the limits; links are left out.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            members = [member for member in archive if member.isreg() and not member.issparse()]
    except Exception as error:  # malformed bytes make the library raise almost anything
        raise _not_an_archive(error) from error
    _check_sizes([(member.name, member.size) for member in members])
    return {member.name: partial(_read_slice, path, member.offset_data, member.size) for member in members}


def _read_slice(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def _not_an_archive(error: Exception) -> InvalidInput:
    return InvalidInput(
        "not-an-archive",
        f"The pictures are neither a zip nor an uncompressed tar that can be read ({error}).",
        "Pack the folder of pictures as .zip or .tar and send that.",
    )


def _check_sizes(entries: list[tuple[str, int]]) -> None:
    """Raises `InvalidInput` for too many files, files that are too large, and repeated names."""
    total = sum(size for _, size in entries)
    large = next((name for name, size in entries if size > MAX_ENTRY_BYTES), None)
    if len(entries) > MAX_ENTRIES or total > MAX_TOTAL_BYTES or large is not None:
        what = f"its file '{large}' is" if large is not None else f"its {len(entries)} files are"
        raise InvalidInput(
            "archive-too-large",
            f"The archive is too large: {what} over the limit once unpacked.",
            f"Stay under {MAX_ENTRIES:,} files, {MAX_ENTRY_BYTES >> 20} MiB a file and "
            f"{MAX_TOTAL_BYTES >> 30} GiB in all.",
        )
    if any(size < 0 for _, size in entries):
        raise _not_an_archive(ValueError("a file of negative size"))
    names: set[str] = set()
    repeated = next((name for name, _ in entries if name in names or names.add(name)), None)  # type: ignore[func-returns-value]
    if repeated is not None:
        raise InvalidInput(
            "repeated-name", f"The archive holds '{repeated}' more than once.", "Give each file a name of its own."
        )


def corrupt_picture(name: str, error: Exception) -> InvalidInput:
    """The error for a file that is no whole picture."""
    return InvalidInput(
        "corrupt-picture",
        f"Picture '{name}' cannot be decoded ({type(error).__name__}).",
        "Replace it by a whole PNG, JPEG or WebP file, or take it out of the set.",
    )
