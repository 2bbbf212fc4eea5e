"""Explanations of single examples, one file each: where in the input, and through which features, a target comes about.

An explanation is a function from `Runs` and examples to `Attributed`, under the name of its row in
`caveat_spec.explanations`. Beside it in its file, `cost` says how many forward passes it will take for one example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

from caveat_spec.explanations import ExplanationEntry, explanations
from caveat_worker.engine.explanations.attributed import Attributed
from caveat_worker.engine.explanations.runs import Runs

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""The shape of one example at `input` and at layers, without the axis of the batch."""


@dataclass(frozen=True)
class Explanation:
    """An explanation that can be run, and its price."""

    entry: ExplanationEntry
    run: Callable[[Runs, Any, Any], Attributed]
    """Runs, examples [n, …] and options → what is attributed to their atoms."""
    cost: Callable[[Any, Shapes], int]
    """Options and shapes → forward passes for one example; a gradient counts as five."""


def explanation(name: str) -> Explanation:
    """The explanation of that name; raises KeyError if there is no row for it."""
    entry = explanations()[name]
    module = import_module(entry.module)
    return Explanation(entry, getattr(module, entry.name), module.cost)
