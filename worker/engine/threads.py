"""Threads: where several work side by side, and why linear algebra has one.

Sums come out the same on any machine, and small matrices come out sooner. A BLAS that splits a product over threads may
add in another order, and its threads spin while they wait: on two busy cores the same audit took twenty times as long
with two threads as with one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
T = TypeVar("T")


def on_one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """The same function, with BLAS held to one thread while it runs."""

    @wraps(function)
    def held(*args: P.args, **kwargs: P.kwargs) -> T:
        with _libraries().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return held


@cache
def _libraries() -> ThreadpoolController:
    """The linear algebra that this process has loaded; looking for it takes longer than a small test."""
    return ThreadpoolController()


def ahead(of: Iterable[T]) -> Iterator[T]:
    """The same, each made by another thread while the one before it is in use."""
    source = iter(of)
    end = object()
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(next, source, end)
        while (one := coming.result()) is not end:
            coming = maker.submit(next, source, end)
            yield one  # type: ignore[misc]
