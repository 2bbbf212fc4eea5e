"""Parallel work: in order, bounded, and without lost errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from caveat_worker.engine.base.threads import MAX_PARALLEL, parallel_map, split_threads


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
def test_parallel_batches_share_the_threads(threads: int) -> None:
    parallel, each = split_threads(threads)
    assert 1 <= parallel <= MAX_PARALLEL
    assert parallel * each <= threads < parallel * (each + 1)
    assert split_threads(threads, one_at_a_time=True) == (1, threads)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_results_are_in_order_and_at_most_count_run_at_a_time(count: int) -> None:
    running, most, made, done = set[int](), 0, 0, 0
    lock = threading.Lock()

    def source() -> Iterator[int]:
        nonlocal made
        for number in range(20):
            made += 1
            assert made - done <= count + 2, "it reads too far ahead"
            yield number

    def work(number: int) -> int:
        nonlocal most
        with lock:
            running.add(number)
            most = max(most, len(running))
        time.sleep(0.002 * (number % 3))
        with lock:
            running.remove(number)
        return number * number

    found = []
    for value in parallel_map(work, source(), count):
        found.append(value)
        done += 1
    assert found == [number * number for number in range(20)]
    assert most == count


@pytest.mark.parametrize("at", ["source", "work"])
def test_an_error_is_raised_at_its_item(at: str) -> None:
    def source() -> Iterator[int]:
        for number in range(9):
            if number == 5 and at == "source":
                raise LookupError(number)
            yield number

    def work(number: int) -> int:
        if number == 5 and at == "work":
            raise LookupError(number)
        return number

    results = parallel_map(work, source(), 2)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(LookupError, match="5"):
        next(results)


def test_closing_the_iterator_leaves_no_thread() -> None:
    before = threading.active_count()
    results = parallel_map(lambda number: number, range(1000), 2)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
