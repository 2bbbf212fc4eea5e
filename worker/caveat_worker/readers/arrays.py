"""Arrays in `.npy` and `.npz` files."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_spec.audit import Arrays
from caveat_worker.engine.activations.requirements import ONLY
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.source import ExampleSource, is_zip, lots_in_pairs, sampled

MAX_UNPACKED_BYTES = 8 * 2**30


def open_arrays(declared: Arrays, path: Path, seed: int, lots: Sequence[str] = ()) -> ExampleSource:
    """Opens arrays [examples, ...], one for each input; raises `InvalidInput` for objects, pickles and unknown keys.

    A half and a sample are drawn by the number of an example, or by `lots`: those of the rows that it is paired with.
    """
    zipped = is_zip(path)
    wanted: dict[str, str | None] = dict(declared.inputs) or {ONLY: declared.key}
    arrays = {name: _checked(_npz(path, key) if zipped else _npy(path)) for name, key in wanted.items()}
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise InvalidInput(
            "arrays-differ",
            f"The arrays hold different numbers of examples: {', '.join(f'{k} {n}' for k, n in counts.items())}.",
            "Save arrays that hold the same examples in the same order.",
        )
    own = tuple(map(str, range(max(counts.values()))))
    kept = sampled(lots_in_pairs(own, lots), declared, seed, own)

    def load(positions: Sequence[int]) -> dict[str, NDArray[Any]]:
        rows = [kept[i] for i in positions]
        return {name: np.asarray(array[rows]) for name, array in arrays.items()}

    shapes = {name: array.shape[1:] for name, array in arrays.items()}
    return ExampleSource(
        kind="arrays", names=tuple(map(str, kept)), shapes=shapes, load=load, positions=tuple(kept), lots=own
    )


def _checked(array: NDArray[Any]) -> NDArray[Any]:
    """Returns an array of numbers [examples, ...]; raises `InvalidInput` for any other array."""
    if array.dtype.kind not in "fiub":
        raise InvalidInput(
            "not-numbers", f"The array holds {array.dtype}, not numbers.", "Save floats or integers with numpy.save."
        )
    if array.ndim < 2:
        raise InvalidInput(
            "wrong-shape",
            f"The array has the shape {array.shape}; it needs two axes or more, and examples along the first.",
            "Reshape it to [examples, features].",
        )
    if 0 in array.shape:
        raise InvalidInput(
            "no-examples", f"The array of shape {array.shape} has no numbers.", "Save the examples into it."
        )
    return array


def _npy(path: Path) -> NDArray[Any]:
    _check_header(path)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except MemoryError:
        raise
    except Exception as error:  # a malformed header makes the library raise almost anything
        raise _unreadable(error) from error


def _check_header(path: Path) -> None:
    """Raises `InvalidInput` if the header says that it is longer than the file: numpy would first reserve memory."""
    with path.open("rb") as stream:
        start = stream.read(12)
    if start[6:7] > b"\x01" and int.from_bytes(start[8:12], "little") > path.stat().st_size:
        raise _unreadable(ValueError("its header is longer than the file"))


def _npz(path: Path, key: str | None) -> NDArray[Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise InvalidInput(
                "archive-too-large",
                f"The .npz unpacks to {unpacked:,} bytes; {MAX_UNPACKED_BYTES:,} are allowed.",
                "Send a .npy, which is read without unpacking.",
            )
        with np.load(path, allow_pickle=False) as arrays:
            names = list(arrays.files)
            if key is None and len(names) == 1:
                key = names[0]
            if key not in names:
                raise InvalidInput(
                    "unknown-array",
                    f"The .npz has no array '{key}'." if key else f"The .npz holds {len(names)} arrays.",
                    f"Set 'key' to one of: {', '.join(names) or 'none there'}.",
                )
            return np.asarray(arrays[key])
    except (InvalidInput, MemoryError):
        raise
    except Exception as error:  # each kind of compression has its own
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> InvalidInput:
    return InvalidInput(
        "not-an-array",
        f"The bytes are not a NumPy array that can be read ({error}).",
        "Save the array with numpy.save (no pickled objects) and send the .npy or .npz.",
    )
