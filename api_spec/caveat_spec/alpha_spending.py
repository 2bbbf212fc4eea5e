"""Alpha spending: how a sequential audit divides its alpha over the looks at growing shares of its examples.

By the share t of the examples, `alpha t²` is spent (Lan and DeMets 1983; the power family of Kim and DeMets 1987). A
look is given what was spent since the one before, and its intervals and tests use that as their alpha. By Bonferroni's
inequality all looks together err in at most alpha of audits, whatever their statistics have to do with each other and
wherever the audit stops; so every interval and test that holds its own level can be looked at like this. Such intervals
are *repeated confidence intervals* (Jennison and Turnbull 1989).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from caveat_spec.audit import Method

POWER = 2
"""1 spends evenly and stops earliest, 3 is near O'Brien and Fleming and costs the last look least."""
RESAMPLES_BEYOND, PERMUTATIONS_BEYOND = 12, 2
"""Resamples that an interval of a look leaves out at both ends, on average; and permutations beyond a significant
effect, so that one of them does not lose it (the correction over a report asks for more)."""


@dataclass(frozen=True)
class SpentAt:
    """A look: the share of the examples, and the alpha that it spends."""

    share: float
    alpha: float


def spending(shares: Sequence[float], alpha: float) -> list[SpentAt]:
    """What a look at each of some growing shares spends; where the last one is 1, they spend alpha together."""
    spent = [alpha * share**POWER for share in shares]
    return [SpentAt(share, now - before) for share, now, before in zip(shares, spent, [0.0, *spent[:-1]], strict=True)]


def method_at(method: Method, look: SpentAt) -> Method:
    """The settings of one look: its own alpha, with enough draws that a few lie in each tail that it leaves out."""
    fewest = {"bootstrap": RESAMPLES_BEYOND, "permutations": PERMUTATIONS_BEYOND}
    draws = {name: max(getattr(method, name), math.ceil(left_out / look.alpha)) for name, left_out in fewest.items()}
    return method.model_copy(update={"alpha": look.alpha, "sequential": None, **draws})
