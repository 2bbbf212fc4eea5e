"""Threads: batches run in parallel, and linear algebra runs on one thread.

One thread gives the same sums on every machine, and is faster for small matrices. A BLAS with several threads may add
in another order, and its threads spin while they wait: on two busy cores the same audit took twenty times as long with
two threads as with one.
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

MAX_PARALLEL = 4
"""Batches that run through a model in parallel; the tensors of all of them are in memory."""


def split_threads(threads: int, *, one_at_a_time: bool = False) -> tuple[int, int]:
    """Splits threads (0: one for each core) into the number of parallel batches and the threads for each batch.

    Two batches on one core each take less time than one after the other on two cores, because no thread waits for
    another in the middle of an operator.
    """
    total = threads or os.cpu_count() or 1
    parallel = 1 if one_at_a_time else min(total, MAX_PARALLEL)
    return parallel, total // parallel


def parallel_map(function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """Yields `function` of each item in order, computing `count` at a time; another thread reads the next items.

    At most `count` + 1 items are read ahead of the result that was yielded last.
    """
    source, end = iter(items), object()

    def run(item: Future[T | object]) -> R | object:
        value = item.result()
        return end if value is end else function(value)  # type: ignore[arg-type]

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(count) as workers:
        pending = deque(workers.submit(run, reader.submit(next, source, end)) for _ in range(count + 1))
        try:
            while (result := pending.popleft().result()) is not end:
                pending.append(workers.submit(run, reader.submit(next, source, end)))
                yield result  # type: ignore[misc]
        finally:
            for future in pending:
                future.cancel()


def on_one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function to run with BLAS limited to one thread."""

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        with _libraries().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited


@cache
def _libraries() -> ThreadpoolController:
    """The BLAS libraries that this process has loaded; cached, because the search is slow."""
    return ThreadpoolController()
