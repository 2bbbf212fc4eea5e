"""Weights out of pickles, without running what else a pickle may hold, and without torch."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy._core import multiarray
from numpy.typing import NDArray

Globals = Mapping[tuple[str, str], Any]
"""What a pickle may name: (module, name) → what stands for it here."""

NUMPY_GLOBALS: Globals = {
    ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001


class RefusedPickleError(Exception):
    """A pickle names something other than arrays and containers."""


@dataclass(frozen=True)
class StoredTensor:
    """A view of a torch storage whose numbers come later in the file; offset and strides count elements."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """The view's own copy of `numbers`, the whole storage."""
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if min(self.offset, *self.strides, *self.shape, 0) < 0 or last >= numbers.size:
            raise RefusedPickleError(f"A tensor reaches outside storage {self.storage}.")
        strides = [step * numbers.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides).copy()


class RestrictedUnpickler(pickle.Unpickler):
    """Loads one pickle; refuses every global that is not in `allowed`."""

    def __init__(self, file: IO[bytes], allowed: Globals) -> None:
        super().__init__(file)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a global."""
        try:
            return self._allowed[module, name]
        except KeyError:
            raise RefusedPickleError(
                f"The pickle names {module}.{name}; a file of weights has no need of it."
            ) from None

    def persistent_load(self, reference: Any) -> str:
        """Refuses: what a pickle of arrays needs is inside it."""
        raise RefusedPickleError("The pickle refers to an object outside itself.")


class TorchUnpickler(RestrictedUnpickler):
    """Also follows references to storages, and keeps the type of each in `storages`: key → dtype."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, TORCH_GLOBALS)
        self.storages: dict[str, np.dtype[Any]] = {}

    def persistent_load(self, reference: Any) -> str:
        """The key of a storage."""
        match reference:
            case ("storage", StorageType() as kind, str(key), "cpu", int(), None):
                self.storages[key] = kind.dtype
                return key
        raise RefusedPickleError("The pickle refers to an object that is no storage of numbers on the CPU.")


@dataclass(frozen=True)
class StorageType:
    """What stands for `torch.FloatStorage` and its kin; not callable."""

    dtype: np.dtype[Any]


def _rebuild_tensor(
    storage: str,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool,
    hooks: Mapping[str, Any],
) -> StoredTensor:
    """What stands for `torch._utils._rebuild_tensor_v2`."""
    return StoredTensor(storage, offset, shape, strides)


TORCH_GLOBALS: Globals = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): StorageType(np.dtype("<f4")),
    ("torch", "LongStorage"): StorageType(np.dtype("<i8")),
}


def read_numpy_pickle(content: bytes) -> Any:
    """Arrays in plain containers."""
    return RestrictedUnpickler(io.BytesIO(content), NUMPY_GLOBALS).load()


def read_state_dict(content: bytes) -> dict[str, NDArray[Any]]:
    """A state_dict in torch's first file format: name → array.

    The format is five pickles (magic number, protocol, machine, tensors, keys of storages), then for each key
    the number of elements (int64) and the elements.
    """
    file = io.BytesIO(content)
    magic, protocol, machine = (RestrictedUnpickler(file, {}).load() for _ in range(3))
    if (magic, protocol, machine.get("little_endian")) != (TORCH_MAGIC, TORCH_PROTOCOL, True):
        raise RefusedPickleError("The file is no little-endian state_dict in torch's first format.")
    tensors = TorchUnpickler(file)
    state: dict[str, StoredTensor] = tensors.load()
    keys: list[str] = RestrictedUnpickler(file, {}).load()
    storages = {key: _read_storage(file, tensors.storages[key]) for key in keys}
    return {name: tensor.of(storages[tensor.storage]) for name, tensor in state.items()}


def _read_storage(file: IO[bytes], dtype: np.dtype[Any]) -> NDArray[Any]:
    size = int(np.frombuffer(file.read(8), "<i8")[0])
    return np.frombuffer(file.read(size * dtype.itemsize), dtype)
