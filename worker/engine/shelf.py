"""Where arrays are kept under what they are: for the length of one audit, and where there is a cache, for the next.

A key says everything that an array's numbers depend on, down to the versions of what computed them: two arrays of one
key hold the same bits. So an audit that finds its arrays gives the same report as one that computes them.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import rfc8785
from numpy.typing import DTypeLike, NDArray

FORMAT = 1
"""Counted up where code gives other numbers under the same description."""


class Evicted(Exception):  # noqa: N818
    """The shelf no longer has what an audit began to rely on; without it, the audit has to begin anew."""


class Shelf(Protocol):
    """Arrays by their keys."""

    def find(self, key: str) -> NDArray[Any] | None:
        """The array that was kept under this key before this audit, to be read only; None where there is none."""
        ...

    def room(self, key: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array to be filled before the audit ends; where there is a cache, it is then kept."""
        ...

    def spare(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An uninitialised array for the length of this audit."""
        ...

    def keep(self, key: str, values: NDArray[Any]) -> None:
        """Keeps a copy of an array, where there is a cache."""
        ...


def key_of(**description: Any) -> str:
    """The SHA-256 of a description in canonical JSON (RFC 8785), in hexadecimal digits."""
    return hashlib.sha256(rfc8785.dumps({"format": FORMAT, **description})).hexdigest()
