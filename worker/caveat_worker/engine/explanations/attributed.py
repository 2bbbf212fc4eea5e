"""What an explanation answers: a number for each atom, what they must add up to, and the checks of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from caveat_worker.engine.base.arrays import AnyArray, Float64Array


@dataclass(frozen=True)
class Check:
    """One property that an explanation must have; a figure whose check fails is not drawn, its sentence is."""

    code: str
    value: float
    bound: float
    ok: bool
    sentence: str
    """What was found, for a reader who has not read the code."""


@dataclass(frozen=True)
class Attributed:
    """What is attributed to the atoms of n examples: pixels, tokens, columns, positions, channels or neurons."""

    values: Float64Array
    """[n, *atoms]"""
    total: Float64Array | None = None
    """What the values of an example, and `rest`, add up to [n]; None where they are not parts of a whole."""
    checks: tuple[Check, ...] = ()
    spread: Float64Array | None = None
    """The standard error of each value, in the shape of `values`, where it was estimated from random draws."""
    passes: int = 0
    """Forward passes that were made; a gradient counts as five."""
    rest: Float64Array | None = None
    """What belongs to no atom [n], such as the part of biases."""
    notes: tuple[str, ...] = ()
    """Sentences that stand under the figure."""
    of_atoms: tuple[str, ...] = ()
    """What else was found of each atom, in sentences; the same at every example."""
    entries: tuple[str, ...] = ()
    """What an audit file needs, in YAML, to audit what was found."""
    parts: Mapping[str, AnyArray] = field(default_factory=dict)
    """Further arrays, by name, such as the legend of a map of several classes."""

    @property
    def withheld(self) -> str | None:
        """Why the figure must not be drawn: the sentence of the first check that failed; None if all hold."""
        return next((check.sentence for check in self.checks if not check.ok), None)
