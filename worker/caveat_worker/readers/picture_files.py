"""Which pictures an example set takes: from an archive or a dataset, chosen by name, by annotation or by row."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from caveat_spec.audit import DATASETS, Images
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.archives import Entries, entries_of
from caveat_worker.readers.source import is_dataset


def chosen_pictures(declared: Images, path: Path, annotations: Path | None) -> Entries:
    """The pictures of a set: name → function that reads the file; raises `InvalidInput` if there is none."""
    pictures = _pictures(declared, path, annotations)
    kept = {
        name: read for name, read in pictures.items() if declared.files is None or fnmatchcase(name, declared.files)
    }
    if not kept:
        there = ", ".join(sorted({PurePosixPath(name).parts[0] for name in pictures})[:10])
        raise InvalidInput(
            "no-pictures",
            f"None of the {len(pictures):,} pictures has a path like '{declared.files}'.",
            f"A pattern such as 'zebra/*' takes a folder; there are: {there}.",
        )
    return kept


def _pictures(declared: Images, path: Path, annotations: Path | None) -> Entries:
    """Every picture that annotations or rows leave."""
    entries = {} if is_dataset(path) else entries_of(path)
    pictures = {name: read for name, read in entries.items() if _is_picture(name)}
    if is_dataset(path) or (not pictures and any(PurePosixPath(name).suffix in DATASETS for name in entries)):
        from caveat_worker.readers.picture_rows import pictures_of_rows  # pyarrow loads slowly

        return pictures_of_rows(declared, path)
    if not pictures:
        raise InvalidInput(
            "no-pictures",
            f"The archive holds {len(entries)} files and none of them is a picture.",
            "Put PNG, JPEG or WebP files into it.",
        )
    if annotations is not None:
        from caveat_worker.readers.picture_rows import annotated_names

        return _named(pictures, annotated_names(declared, annotations))
    if declared.where is not None:
        raise InvalidInput(
            "nothing-to-select-by",
            "'where' selects rows, and pictures in a folder or an archive have none.",
            "Name a table with a row for each picture in 'annotations', or choose pictures by path with 'files'.",
        )
    return pictures


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in Images.SUFFIXES and not path.name.startswith(".")


def _named(pictures: Entries, names: Sequence[str]) -> Entries:
    """The pictures of these names, by their paths in the archive, or by file names where those are unique."""
    by_name: dict[str, list[str]] = {}
    for path in pictures:
        by_name.setdefault(PurePosixPath(path).name, []).append(path)
    chosen = {}
    for name in names:
        ends = [name] if name in pictures else by_name.get(PurePosixPath(name).name, [])
        if len(ends) != 1:
            what = "is not among the pictures" if not ends else f"fits {len(ends)} pictures"
            raise InvalidInput(
                "missing-picture",
                f"The annotations name '{name}', which {what}.",
                "Send the folder that the names are relative to, or leave those rows out with 'where'.",
            )
        chosen[ends[0]] = pictures[ends[0]]
    return dict(sorted(chosen.items()))
