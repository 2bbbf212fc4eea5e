"""The interface of an array store, which keeps arrays for one audit and, with a cache, for the next ones.

A key describes everything that an array's numbers depend on, down to the versions of the libraries: two arrays with the
same key have the same bits. An audit that finds its arrays therefore gives the same report as one that computes them.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import rfc8785
from numpy.typing import DTypeLike, NDArray

FORMAT = 2
"""Increased when the code computes other numbers for the same description."""


class Evicted(Exception):  # noqa: N818
    """The store has lost an array that the audit found before; the audit has to start again."""


class ArrayStore(Protocol):
    """A store of arrays by key."""

    def get(self, key: str) -> NDArray[Any] | None:
        """The array that was stored under this key before this audit, read-only; None if there is none."""
        ...

    def allocate(self, key: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array for the caller to fill before the audit ends; a cache then keeps it."""
        ...

    def scratch(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An uninitialised array that is dropped at the end of this audit."""
        ...

    def put(self, key: str, values: NDArray[Any]) -> None:
        """Stores a copy of an array if there is a cache."""
        ...


def key_of(**description: Any) -> str:
    """The SHA-256 of a description in canonical JSON (RFC 8785), in hexadecimal."""
    return hashlib.sha256(rfc8785.dumps({"format": FORMAT, **description})).hexdigest()
