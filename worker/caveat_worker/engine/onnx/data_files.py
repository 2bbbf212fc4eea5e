"""Weights outside a model's own file: in files beside it, or with it in a bundle.

Each file is mapped once and read-only: its bytes are read from the disk when they are used, and not copied. Numbers
that are not at their natural places, as in a model's own file, are read once into memory.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from mmap import ACCESS_READ, mmap
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
import onnx_ir as ir

from caveat_spec.bundle import MODEL, entry_of, file_at, is_bundle
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.own_numbers import LOCATION

MAX_FILES = 100_000


@dataclass(frozen=True)
class Extent:
    """Consecutive bytes of a file, `end` not included."""

    path: Path
    begin: int
    end: int


@dataclass(frozen=True)
class DataFiles:
    """Finds a model's data files by their locations, and maps them."""

    find: Callable[[str], Extent | None]
    """The bytes of the data file at a location; None if there is no such file."""
    _maps: dict[Path, memoryview] = field(default_factory=dict)
    _moved: dict[Extent, memoryview] = field(default_factory=dict)

    def read(self, tensor: ir.ExternalTensor) -> ir.TensorProtocol:
        """The tensor over its mapped bytes; raises `InvalidInput` if the data files do not hold all of them."""
        location, size = str(tensor.location), tensor.nbytes
        found = self.find(location)
        if found is None:
            raise _elsewhere(tensor, f"should be in '{location}', which is not in the bundle")
        begin, length = tensor.offset or 0, tensor.length or size
        if location == LOCATION and length != size:
            raise InvalidInput(
                "invalid-model",
                f"The model breaks a rule of ONNX: its tensor '{tensor.name}' has {length:,} bytes, and its type and "
                f"shape take {size:,}.",
                "Export it again, or check it with onnx.checker.check_model.",
            )
        if begin < 0 or length != size:
            raise _elsewhere(
                tensor, f"have {size:,} bytes, and the model reads {length:,} at {begin:,} of '{location}'"
            )
        if begin + size > found.end - found.begin:
            raise _elsewhere(
                tensor, f"end at byte {begin + size:,} of '{location}', which has {found.end - found.begin:,}"
            )
        start = found.begin + begin
        return _tensor(tensor, self._numbers(Extent(found.path, start, start + size), tensor.dtype.bitwidth // 8))

    def _numbers(self, extent: Extent, each: int) -> memoryview:
        """The bytes of numbers of `each` bytes, in memory where they are not at a multiple of that in their file."""
        if extent.begin % max(each, 1) == 0:
            return self._mapped(extent.path)[extent.begin : extent.end]
        if extent not in self._moved:
            array = np.empty(extent.end - extent.begin, np.uint8)
            with extent.path.open("rb") as file:
                file.seek(extent.begin)
                file.readinto(array.data)
            array.flags.writeable = False
            self._moved[extent] = array.data
        return self._moved[extent]

    def _mapped(self, path: Path) -> memoryview:
        if path not in self._maps:
            with path.open("rb") as file:
                empty = path.stat().st_size == 0  # which cannot be mapped
                self._maps[path] = memoryview(b"" if empty else mmap(file.fileno(), 0, access=ACCESS_READ))
        return self._maps[path]


def beside(folder: Path) -> DataFiles:
    """The data files in a folder."""

    def find(location: str) -> Extent | None:
        path = file_at(folder, location)
        return None if path is None else Extent(path, 0, path.stat().st_size)

    return DataFiles(find)


def with_own_file(model: Path, others: DataFiles | None) -> DataFiles:
    """The data files of a model whose message refers to its own file (`own_numbers`), and others that it may have."""

    def find(location: str) -> Extent | None:
        if location == LOCATION:
            return Extent(model, 0, model.stat().st_size)
        return None if others is None else others.find(location)

    return DataFiles(find)


def open_bundle(path: Path) -> tuple[bytes, DataFiles] | None:
    """The model's message and the data files of a bundle; None if the file is none.

    Raises `InvalidInput` for a tar that cannot be read, and for one that repeats a name.
    """
    with path.open("rb") as file:
        if not is_bundle(file.read(512)):
            return None
    entries: dict[str, Extent] = {}
    for name, extent in _entries(path):
        if entries.setdefault(name, extent) is not extent:
            raise InvalidInput(
                "repeated-name", f"The bundle holds '{name}' more than once.", "Give each file a name of its own."
            )
    data = DataFiles(lambda location: entries.get(entry_of(location) or ""))
    model = entries.get(MODEL)
    if model is None:
        raise _unreadable(ValueError(f"it holds no file {MODEL}"))
    with path.open("rb") as file:
        file.seek(model.begin)
        return file.read(model.end - model.begin), data


def _entries(path: Path) -> Iterator[tuple[str, Extent]]:
    """The regular files of a tar; links and folders are left out, and so are names that no location can have."""
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            for number, member in enumerate(archive):
                if number >= MAX_FILES:
                    raise ValueError(f"it has over {MAX_FILES:,} entries")
                if not 0 <= member.size <= size - member.offset_data:
                    raise ValueError(f"it ends inside '{member.name}'")
                name = MODEL if PurePosixPath(member.name) == PurePosixPath(MODEL) else entry_of(member.name)
                if member.isreg() and not member.issparse() and name is not None:
                    yield name, Extent(path, member.offset_data, member.offset_data + member.size)
    except MemoryError:
        raise
    except Exception as error:  # malformed bytes make the library raise almost anything
        raise _unreadable(error) from error


def _tensor(tensor: ir.ExternalTensor, numbers: memoryview) -> ir.TensorProtocol:
    """A tensor over these bytes; numbers smaller than a byte are copied."""
    if tensor.dtype.bitwidth < 8:
        packed = onnx.TensorProto(dims=tensor.shape.numpy(), data_type=tensor.dtype.value, raw_data=bytes(numbers))
        return ir.serde.deserialize_tensor(packed)
    dtype = np.dtype(tensor.dtype.numpy()).newbyteorder("<")
    try:
        array = np.frombuffer(numbers, dtype).reshape(tensor.shape.numpy())
    except ValueError as error:  # such as more empty dimensions than an array may have
        raise _elsewhere(tensor, f"do not fit their shape ({error})") from error
    return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)


def _elsewhere(tensor: ir.ExternalTensor, what: str) -> InvalidInput:
    return InvalidInput(
        "external-data",
        f"The weights of '{tensor.name}' {what}.",
        "Give the model together with all its data files, as the export wrote them: beside it and under the names that "
        "the model has for them, whole and not as links.",
    )


def _unreadable(error: Exception) -> InvalidInput:
    return InvalidInput(
        "not-a-bundle",
        f"The tar of the model and its data files cannot be read ({error}).",
        f"Pack them again without compression, the model first and as {MODEL}.",
    )
