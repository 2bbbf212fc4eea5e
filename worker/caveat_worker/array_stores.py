"""Where an audit's arrays are: in memory up to a budget and in files beyond it, or where a cache will find them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from caveat_worker.engine.base.store import ArrayStore

MEMORY_BYTES = 512 * 2**20
CHUNK = 1 << 20  # bytes read at a time


@contextmanager
def scratch(budget: int = MEMORY_BYTES) -> Iterator[Scratch]:
    """A store that forgets; arrays beyond `budget` bytes live in files of the working folder."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="scratch-") as folder:
        yield Scratch(Path(folder), budget)


class Scratch:
    """A store in memory and, beyond its budget, in a folder."""

    def __init__(self, folder: Path, budget: int) -> None:
        self._folder, self._left, self._files = folder, budget, 0

    def get(self, key: str) -> None:
        """Nothing was here before."""

    def allocate(self, key: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An uninitialised array; its key is forgotten."""
        return self.scratch(shape, dtype)

    def scratch(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An uninitialised array."""
        size = np.dtype(dtype).itemsize * prod(shape)
        if size <= self._left or size == 0:
            self._left -= size
            return np.empty(shape, dtype)
        self._files += 1
        path = self._folder / str(self._files)
        array = np.memmap(path, dtype, "w+", shape=shape)
        _reserve(path)
        return array

    def put(self, key: str, values: NDArray[Any]) -> None:
        """Nothing will be looked for again."""


@contextmanager
def cached(kept: Path, fresh: Path) -> Iterator[Cached]:
    """A store that finds arrays in `kept`, which it only reads, and leaves new ones in `fresh` for the supervisor.

    Every file ends with a digest of its name and its other bytes; one that was cut short, changed or renamed is not
    found.
    """
    fresh.mkdir()
    with scratch() as spare:
        store = Cached(kept, fresh, spare)
        yield store
        store.seal()


class Cached:
    """A store over two folders of `.npy` files, named by their keys; `spare` has room for this audit alone."""

    def __init__(self, kept: Path, fresh: Path, spare: Scratch) -> None:
        self._kept, self._fresh = kept, fresh
        self.scratch = spare.scratch
        self._found: dict[str, NDArray[Any] | None] = {}
        self._rooms: dict[str, NDArray[Any]] = {}

    def get(self, key: str) -> NDArray[Any] | None:
        """What an earlier audit kept; once found it stays, whatever becomes of the file."""
        if key not in self._found:
            self._found[key] = _whole(self._kept / f"{key}.npy")
        return self._found[key]

    def allocate(self, key: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array in a file; sets that are alike share it."""
        if 0 in shape:
            return np.empty(shape, dtype)
        if key not in self._rooms:
            path = self._fresh / f"{key}.npy"
            room = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
            _reserve(path)
            self._rooms[key] = room
        return self._rooms[key]

    def put(self, key: str, values: NDArray[Any]) -> None:
        """Writes a copy."""
        self.allocate(key, values.shape, values.dtype)[...] = values

    def seal(self) -> None:
        """Ends every new file with its digest, and says which old ones were of use."""
        for key in self._rooms:
            path = self._fresh / f"{key}.npy"
            digest = _digest(path, path.stat().st_size)
            with path.open("ab") as file:
                file.write(digest)
        used = [f"{key}.npy\n" for key, array in self._found.items() if array is not None]
        (self._fresh / "used").write_text("".join(used))


class Whole:
    """A store that leaves each array as one piece, for the worker that joins an audit's shards."""

    def __init__(self, store: ArrayStore) -> None:
        self._store, self.scratch = store, store.scratch

    def get(self, key: str) -> None:
        """A shard computes what it is asked: what was cached is in none."""

    def allocate(self, key: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array in a piece."""
        return self._store.allocate(f"{key}.0", shape, dtype)

    def put(self, key: str, values: NDArray[Any]) -> None:
        """Writes a copy into a piece."""
        self._store.put(f"{key}.0", values)


@contextmanager
def joined(pieces: Path, store: AbstractContextManager[ArrayStore]) -> Iterator[Joined]:
    """A store that also finds the arrays that shards left in `pieces`, as if this audit had computed them."""
    with store as kept:
        yield Joined(pieces, kept)


class Joined:
    """A store over another one and over pieces of arrays, files named by an array's key and where a piece begins."""

    def __init__(self, pieces: Path, store: ArrayStore) -> None:
        self._store, self._pieces = store, pieces
        self.scratch, self.put = store.scratch, store.put
        self._joined: dict[str, NDArray[Any] | None] = {}

    def get(self, key: str) -> NDArray[Any] | None:
        """What was kept before, or pieces put together in a room of this audit's."""
        if key not in self._joined:
            found = self._store.get(key)
            self._joined[key] = self._together(key) if found is None else found
        return self._joined[key]

    def allocate(self, key: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of the other store; scratch room where joined pieces already have its key."""
        taken = self._joined.get(key)
        return self._store.allocate(key, shape, dtype) if taken is None else self._store.scratch(shape, dtype)

    def _together(self, key: str) -> NDArray[Any] | None:
        """The array of all pieces; None where one is missing or not what it was."""
        pieces = sorted((int(path.name.split(".")[1]), path) for path in self._pieces.glob(f"{key}.*.npy"))
        arrays = [array for _, path in pieces if (array := _whole(path)) is not None]
        starts = np.cumsum([0, *map(len, arrays)])
        if not arrays or [start for start, _ in pieces] != starts[:-1].tolist():
            return None
        whole = self._store.allocate(key, (int(starts[-1]), *arrays[0].shape[1:]), arrays[0].dtype)
        for start, array in zip(starts[:-1], arrays, strict=True):
            whole[start : start + len(array)] = array
        return whole


def _whole(path: Path) -> NDArray[Any] | None:
    """The array in a file that ends with its digest, mapped and not read; None for any other file.

    Nothing in the file is parsed before all of it is verified.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(-hashlib.sha256().digest_size, os.SEEK_END)
            if file.read() != _digest(path, end):
                return None
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array


def _reserve(path: Path) -> None:
    """Takes the disk space of a mapped file now: a disk that gets full later would kill the process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _digest(path: Path, end: int) -> bytes:
    """The SHA-256 of a file's name and of its bytes before `end`, which are read: a failing disk raises `OSError`."""
    digest = hashlib.sha256(path.name.encode())
    with path.open("rb", buffering=0) as file:
        while end > 0 and (chunk := file.read(min(end, CHUNK))):
            digest.update(chunk)
            end -= len(chunk)
    return digest.digest()
