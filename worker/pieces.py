"""What shards computed, on its way to the worker that puts it together: bytes by digest, beside those of clients."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from vault.blobs import Blobs, digest_of

PIECE = re.compile(r"[0-9a-f]{64}\.[0-9]{1,12}\.npy")
"""The key of an array, and the example that a piece of it begins with."""


@dataclass(frozen=True)
class Pieces:
    """Keeps what a shard's child leaves: `kept` has the digest of each piece, by its name."""

    store: Blobs
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> None:
        """A shard finds nothing: its rows were not there when the audit was divided."""
        return None

    def take_in(self, outputs: int) -> None:
        """Moves the pieces to where any worker finds them; files of other names, and no files, stay behind."""
        with ExitStack() as opened:
            left = os.open("cache", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=outputs)
            opened.callback(os.close, left)
            for name in filter(PIECE.fullmatch, os.listdir(left)):
                file = opened.enter_context(
                    os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=left), "rb")
                )
                about = os.fstat(file.fileno())
                if stat.S_ISREG(about.st_mode) and about.st_nlink == 1:
                    self.kept[name] = _put(self.store, file)


def lay_out(store: Blobs, pieces: Mapping[str, str], folder: Path) -> None:
    """Puts a copy of each piece into a folder, by its name."""
    for name, digest in pieces.items():
        with (folder / name).open("wb") as file:
            store.copy(digest, file)


def _put(store: Blobs, file: BinaryIO) -> str:
    digest = digest_of(file)
    file.seek(0)
    store.put(file, digest)
    return digest
