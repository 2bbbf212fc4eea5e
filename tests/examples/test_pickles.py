from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from examples.pickles import (
    TORCH_MAGIC,
    TORCH_PROTOCOL,
    RefusedPickleError,
    StoredTensor,
    read_numpy_pickle,
    read_state_dict,
)


class Runs:
    """Unpickling this calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def state_dict_file(tensors: bytes) -> bytes:
    """A file in torch's first format around one pickle of tensors."""
    header = (TORCH_MAGIC, TORCH_PROTOCOL, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in header) + tensors + pickle.dumps([], 2)


@pytest.mark.parametrize("named", [os.system, eval, getattr, OrderedDict.fromkeys], ids=lambda named: named.__name__)
def test_nothing_but_arrays_is_unpickled(named: Any) -> None:
    content = pickle.dumps({"weights": Runs(named, "id")}, 2)
    with pytest.raises(RefusedPickleError, match="a file of weights has no need of it"):
        read_numpy_pickle(content)
    with pytest.raises(RefusedPickleError, match="a file of weights has no need of it"):
        read_state_dict(state_dict_file(content))


def test_a_header_may_name_nothing_at_all() -> None:
    with pytest.raises(RefusedPickleError, match="OrderedDict"):
        read_state_dict(pickle.dumps(OrderedDict(), 2))


def test_another_format_is_named() -> None:
    with pytest.raises(RefusedPickleError, match="torch's first format"):
        read_state_dict(pickle.dumps(1, 2) + pickle.dumps(2, 2) + pickle.dumps({}, 2))


@pytest.mark.parametrize("reference", [("module", "x"), ("storage", "FloatStorage", "0", "cpu", 1, None), 7])
def test_only_storages_are_referred_to(reference: Any) -> None:
    class Referring(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return reference if value == "here" else None

    file = io.BytesIO()
    Referring(file, 2).dump({"weights": "here"})
    with pytest.raises(RefusedPickleError, match="no storage of numbers"):
        read_state_dict(state_dict_file(file.getvalue()))
    with pytest.raises(RefusedPickleError, match="outside itself"):
        read_numpy_pickle(file.getvalue())


def test_a_tensor_is_a_strided_view_of_its_storage() -> None:
    numbers = np.arange(10.0)
    view = StoredTensor("0", offset=2, shape=(2, 3), strides=(1, 2)).of(numbers)
    assert view.tolist() == [[2, 4, 6], [3, 5, 7]]


@pytest.mark.parametrize(("offset", "strides"), [(5, (1, 2)), (-1, (1, 2)), (2, (-1, 2))])
def test_a_tensor_stays_inside_its_storage(offset: int, strides: tuple[int, int]) -> None:
    with pytest.raises(RefusedPickleError, match="reaches outside"):
        StoredTensor("0", offset, (2, 3), strides).of(np.arange(10.0))


def test_arrays_come_through() -> None:
    content = pickle.dumps({"conv1": [np.arange(3, dtype=np.float32)]}, 3).replace(b"numpy._core", b"numpy.core")
    assert read_numpy_pickle(content)["conv1"][0].tolist() == [0, 1, 2]
