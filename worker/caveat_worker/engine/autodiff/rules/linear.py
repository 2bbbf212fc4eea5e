# mypy: allow-untyped-defs, allow-untyped-calls
"""Products of matrices and tensors."""

from __future__ import annotations

from string import ascii_letters

import numpy as np

from caveat_worker.engine.autodiff.builder import op
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator, vjp
from caveat_worker.engine.autodiff.shapes import ones_like, reshape_like, size_of, sum_to, swap_last


@vjp("MatMul")
def matmul(g, y, a, b):
    """Y = A B: dA = G Bᵀ and dB = Aᵀ G, each summed over the batch axes along which it was broadcast."""
    row, column = a.rank == 1, b.rank == 1
    batch = y.shape[: y.rank - (not row) - (not column)]
    g = op.Unsqueeze(g, [-1]) if column else g
    g = op.Unsqueeze(g, [-2]) if row else g
    da, db = _matmul(g, batch, op.Unsqueeze(a, [0]) if row else a, op.Unsqueeze(b, [1]) if column else b)
    return op.Squeeze(da, [0]) if row else da, op.Squeeze(db, [1]) if column else db


@vjp("Gemm")
def gemm(g, y, a, b, c=None, *, alpha, beta, transA, transB):
    """Y = α A B + β C, where A and B may be transposed."""
    if transA:
        da = op.Gemm(b, g, transA=transB, transB=1, alpha=alpha)
    else:
        da = op.Gemm(g, b, transB=1 - transB, alpha=alpha)
    if transB:
        db = op.Gemm(g, a, transA=1, transB=transA, alpha=alpha)
    else:
        db = op.Gemm(a, g, transA=1 - transA, alpha=alpha)
    return da, db, c and sum_to(beta * g, c, y.shape)


@vjp("Einsum")
def einsum(g, y, *xs, equation):
    """Each operand changes places with the output; ones restore the indices that no other operand has."""
    *terms, result = _terms(equation)
    if "..." in equation and any(x.shape != xs[0].shape for x in xs):
        raise UnsupportedOperator("its ellipsis may broadcast")
    terms, extra = _without_diagonals(terms, xs)
    cotangents = []
    for i, (x, term) in enumerate(zip(xs, terms, strict=True)):
        others = [(t, z) for j, (t, z) in enumerate(zip(terms, xs, strict=True)) if j != i]
        alone = set(term) - set(result).union(*(t for t, _ in (*others, *extra)))
        sources = [(result, g), *others, *extra] + ([(term, ones_like(x))] if alone else [])
        swapped = ",".join(t for t, _ in sources) + "->" + term
        cotangents.append(op.Einsum(*(z for _, z in sources), equation=swapped.replace("_", "...")))
    return tuple(cotangents)


@vjp("AffineGrid")
def affine_grid(g, y, theta, size, *, align_corners):
    """The grid is θ applied to the points (x, 1) of the identity's grid: dθ = Gᵀ (x, 1)."""
    k = theta.shape[1]
    if not isinstance(k, int):
        raise UnsupportedOperator("the number of its axes is not known")
    identity = theta.builder.constant(np.eye(k, k + 1, dtype=theta.dtype.numpy())[None])
    alone = op.Concat([1], op.Slice(size, [1], [k + 2], [0]), axis=0)
    points = op.Reshape(op.AffineGrid(identity, alone, align_corners=align_corners), [-1, k])
    points = op.Pad(points, [0, 0, 0, 1], np.asarray(1, theta.dtype.numpy()))
    return op.Transpose(op.Reshape(g, [0, -1, k]), perm=[0, 2, 1]) @ points, None


def _matmul(g, batch, a, b):
    if b.rank == 2 and a.rank > 2:  # one matrix for the whole batch: it is not copied
        da = reshape_like(op.Gemm(_rows(g), b, transB=1), a)
        return da, op.Gemm(_rows(a), _rows(g), transA=1)
    if a.rank == b.rank == 2:
        return op.Gemm(g, b, transB=1), op.Gemm(a, g, transA=1)
    return (
        sum_to(g @ swap_last(b), a, (*batch, *a.shape[-2:])),
        sum_to(swap_last(a) @ g, b, (*batch, *b.shape[-2:])),
    )


def _rows(x):
    """x as a matrix [product of the other axes, last axis]."""
    return op.Reshape(x, op.Concat([-1], size_of(x, -1), axis=0)) if x.rank > 2 else x


def _without_diagonals(terms, xs):
    """The operands' indices without repeated ones, and the identity matrices that replace the repetitions."""
    free, distinct, extra = iter(sorted(set(ascii_letters) - set("".join(terms)))), [], []
    for term, x in zip(terms, xs, strict=True):
        for i, letter in enumerate(term):
            if letter in term[:i]:
                if not isinstance(x.shape[i], int):
                    raise UnsupportedOperator("it takes a diagonal of unknown size")
                other = next(free)
                term = term[:i] + other + term[i + 1 :]
                extra.append((letter + other, x.builder.constant(np.eye(x.shape[i], dtype=x.dtype.numpy()))))
        distinct.append(term)
    return distinct, extra


def _terms(equation):
    """The indices of the operands and of the output, with `_` for an ellipsis."""
    left, arrow, right = equation.replace(" ", "").replace("...", "_").partition("->")
    if not arrow:
        right = "_" * ("_" in left) + "".join(sorted(c for c in set(left) - {",", "_"} if left.count(c) == 1))
    return [*left.split(","), right]
