"""Inner products that are not multiplied out, where a layer has fewer features than there are examples.

A CAV is `w = Xᵀα` on either side: with the Gram matrix `X Xᵀ` [n, n] no step depends on the number of features d, and
with `X` [n, d] itself none depends on the square of n. Everything that statistics do with inner products is a product
with them, so that `(α X) Xᵀ` takes the place of `α (X Xᵀ)`, and the numbers are the same up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.base.arrays import Float64Array

FEWER = 2
"""So many times fewer features than examples: a product with both factors then takes no longer than one with K."""


def in_feature_space(features: int, examples: int) -> bool:
    """Whether statistics work on features [n, d] and not on the inner products [n, n] of examples."""
    return FEWER * features <= examples


@dataclass(frozen=True, eq=False)
class FactoredProducts:
    """The inner products `L Rᵀ` [m, n] of `left` [m, d] and `right` [n, d]; of a Gram matrix both are one array."""

    left: Float64Array = field(repr=False)
    right: Float64Array = field(repr=False)

    __array_ufunc__ = None
    """Leaves `array @ products` to this class."""
    ndim = 2

    @property
    def shape(self) -> tuple[int, int]:
        """[m, n]."""
        return len(self.left), len(self.right)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return self.left.nbytes + (0 if self.left is self.right else self.right.nbytes)

    @property
    def T(self) -> FactoredProducts:  # noqa: N802 - NumPy's name
        """The transpose [n, m]."""
        return FactoredProducts(self.right, self.left)

    @cached_property
    def total(self) -> Float64Array:
        """The sum of all rows of `left` [d]."""
        found: Float64Array = self.left.sum(0)
        return found

    @cached_property
    def trace(self) -> float:
        """The sum of the squared norms of a Gram matrix's examples."""
        return float(self.diagonal().sum())

    def __len__(self) -> int:
        return len(self.left)

    def __matmul__(self, other: NDArray[Any]) -> Float64Array:
        found: Float64Array = self.left @ (self.right.T @ other)
        return found

    def __rmatmul__(self, other: NDArray[Any]) -> Float64Array:
        found: Float64Array = (other @ self.left) @ self.right.T
        return found

    def __getitem__(self, at: Any) -> FactoredProducts:
        """Some rows, or some rows and columns, as `numpy.ix_` gives them or with slices."""
        rows, columns = (np.ravel(one) if isinstance(one, np.ndarray) else one for one in _rows_and_columns(at))
        left = self.left[rows]
        alike = self.left is self.right and not isinstance(rows, slice) and np.array_equal(rows, columns)
        return FactoredProducts(left, left if alike else self.right[columns])

    def __truediv__(self, by: float) -> FactoredProducts:
        left = self.left / np.sqrt(by)
        return FactoredProducts(left, left if self.left is self.right else self.right / np.sqrt(by))

    def centred(self) -> FactoredProducts:
        """The Gram matrix of the same examples with their mean as the origin."""
        assert self.left is self.right, "only a Gram matrix has an origin"
        moved = self.left - self.left.mean(0)
        return FactoredProducts(moved, moved)

    def mean(self, axis: int) -> Float64Array:
        """The mean over one axis."""
        found: Float64Array = self.right @ self.left.mean(0) if axis == 0 else self.left @ self.right.mean(0)
        return found

    def diagonal(self) -> Float64Array:
        """The inner product of each row of `left` with its own of `right`."""
        found: Float64Array = np.vecdot(self.left, self.right)
        return found

    def size(self) -> float:
        """The Frobenius norm."""
        inner: Float64Array = self.left @ (self.right.T @ self.right)
        return float(np.sqrt(max(float(np.vdot(inner, self.left)), 0.0)))


def _rows_and_columns(at: Any) -> tuple[Any, Any]:
    return at if isinstance(at, tuple) else (at, slice(None))


AnyProducts: TypeAlias = Float64Array | FactoredProducts
"""Inner products [m, n], multiplied out or not."""
