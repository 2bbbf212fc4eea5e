"""The arrays of shards on their way to the worker that joins them: bytes by digest, beside the blobs of clients."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from caveat_storage.blobs import Blobs, CorruptBytesError, digest_of
from caveat_worker.jobs.output_files import open_file, open_folder
from caveat_worker.jobs.sandbox import LARGEST_FILE

log = logging.getLogger(__name__)

PIECE = re.compile(r"[0-9a-f]{64}\.[0-9]{1,12}\.npy")
"""Name of a piece: the key of its array, and the index of its first example."""


@dataclass(frozen=True)
class Pieces:
    """Stores the pieces of a shard; `kept` maps their names to digests."""

    store: Blobs
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> None:
        """A shard has no cache: its rows were not cached when the audit was divided."""
        return None

    def take_in(self, outputs: int) -> None:
        """Stores the pieces where any worker finds them; other files are ignored."""
        left = open_folder(outputs, "cache")
        if left is None:
            raise FileNotFoundError("the shard left no arrays")
        try:
            for name in filter(PIECE.fullmatch, os.listdir(left)):
                file = open_file(left, name, largest=LARGEST_FILE)
                if file is not None:
                    with file:
                        self.kept[name] = _put(self.store, file)
        finally:
            os.close(left)


def lay_out(store: Blobs, pieces: Mapping[str, str], folder: Path) -> None:
    """Copies each piece into a folder under its name; the audit computes again what a damaged piece held."""
    for name, digest in pieces.items():
        try:
            with (folder / name).open("wb") as file:
                store.copy(digest, file)
        except CorruptBytesError:
            (folder / name).unlink()
            log.warning("a piece of a shard is damaged and is computed again")


def _put(store: Blobs, file: BinaryIO) -> str:
    digest = digest_of(file)
    file.seek(0)
    store.put(file, digest)
    return digest
