"""Threads: where several work side by side, and why linear algebra has one, and a pass through a model few.

Sums come out the same on any machine, and small matrices come out sooner. A BLAS that splits a product over threads may
add in another order, and its threads spin while they wait: on two busy cores the same audit took twenty times as long
with two threads as with one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

MOST_LANES = 4
"""Batches that go through a model side by side: each has its tensors in memory at the same time."""


def lanes(threads: int, *, device: bool = False) -> tuple[int, int]:
    """How many batches to run side by side with so many threads in all (0: one a core), and with how many threads each.

    Two batches on a core each take less time than one after the other on both, since nobody waits for the other's half
    of an operator; on a device they would only wait for each other.
    """
    cores = threads or os.cpu_count() or 1
    side_by_side = 1 if device else min(cores, MOST_LANES)
    return side_by_side, cores // side_by_side


def in_lanes(function: Callable[[T], R], of: Iterable[T], count: int) -> Iterator[R]:
    """`function` of each, in their order, so many at a time; the next is made meanwhile, by a thread of its own."""
    source, end = iter(of), object()

    def run(coming: Future[T | object]) -> R | object:
        one = coming.result()
        return end if one is end else function(one)  # type: ignore[arg-type]

    with ThreadPoolExecutor(1) as maker, ThreadPoolExecutor(count) as workers:
        going = deque(workers.submit(run, maker.submit(next, source, end)) for _ in range(count + 1))
        try:
            while (found := going.popleft().result()) is not end:
                going.append(workers.submit(run, maker.submit(next, source, end)))
                yield found  # type: ignore[misc]
        finally:
            for left in going:
                left.cancel()


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
