"""What an example is compared with, and what is put in place of a part that is taken away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from caveat_spec.explanations import Reference
from caveat_worker.engine.base.arrays import AnyArray
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations.atoms import channel_axis
from caveat_worker.engine.explanations.runs import Runs

_BLUR = 16
"""The standard deviation of the blur is a picture's side divided by this."""


def reference_of(runs: Runs, x: AnyArray, kind: Reference | None) -> AnyArray:
    """The reference of examples [n, …], in their shape; by default zero, and a typical row for rows of a table.

    Raises InvalidInput for a reference that these examples do not have.
    """
    if kind is None:
        kind = "typical" if x.ndim == 2 and runs.typical is not None else "zero"
    if kind == "typical":
        if runs.typical is None:
            raise _refused("No typical example is known.", "Name a set of examples, or use 'zero'.")
        return np.broadcast_to(runs.typical, x.shape).astype(x.dtype)
    if x.dtype == object:
        raise _refused(f"Columns of categories cannot be filled by '{kind}'.", "Use 'typical'.")
    if isinstance(kind, float | int):
        return np.full_like(x, kind)
    return _OWN[kind](x)


def in_words(kind: Reference | None) -> str:
    """A reference as a figure names it."""
    named = {"mean": "the example's own mean", "blurred": "the example blurred", "typical": "a typical example"}
    return named.get(str(kind), f"the number {kind:g}" if isinstance(kind, float) else "zero")


def compared(kind: Reference | None, there: float) -> str:
    """What the parts are compared with, and why they add up to something else than the example's own number."""
    said = f"{there:.3g}".replace("-", "−", 1)
    return f"Compared with {in_words(kind)}, whose own number is {said}: the parts add up to what the example has more."


def _own_mean(x: AnyArray) -> AnyArray:
    """Each example's mean for each channel."""
    axis = channel_axis(x.shape)
    if axis is None:
        raise _refused("Rows of a table have no mean of their own.", "Use 'typical' or 'zero'.")
    others = tuple(one for one in range(1, x.ndim) if one != axis)
    return np.broadcast_to(x.mean(others, keepdims=True), x.shape).astype(x.dtype)


def _blurred(x: AnyArray) -> AnyArray:
    """Each example under a Gaussian of a sixteenth of its side."""
    axis = channel_axis(x.shape)
    if axis is None or x.ndim < 4:
        raise _refused("Only pictures can be blurred.", "Use 'zero' or 'mean'.")
    widths: list[Any] = [0 if one in (0, axis) else size / _BLUR for one, size in enumerate(x.shape)]
    return np.asarray(gaussian_filter(x, widths, mode="nearest"), x.dtype)


def _refused(sentence: str, remedy: str) -> InvalidInput:
    return InvalidInput("no-such-reference", sentence, remedy, "reference")


_OWN: dict[str, Callable[[AnyArray], AnyArray]] = {"zero": np.zeros_like, "mean": _own_mean, "blurred": _blurred}
