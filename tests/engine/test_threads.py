"""Work side by side: in order, bounded, and no fault lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from worker.engine.threads import MOST_LANES, in_lanes, lanes


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
def test_lanes_share_the_threads(threads: int) -> None:
    side_by_side, each = lanes(threads)
    assert 1 <= side_by_side <= MOST_LANES
    assert side_by_side * each <= threads < side_by_side * (each + 1)
    assert lanes(threads, device=True) == (1, threads)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_what_comes_out_is_in_order_and_no_more_at_a_time_than_asked(count: int) -> None:
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
    for value in in_lanes(work, source(), count):
        found.append(value)
        done += 1
    assert found == [number * number for number in range(20)]
    assert most == count


@pytest.mark.parametrize("at", ["source", "work"])
def test_a_fault_comes_out_where_it_belongs(at: str) -> None:
    def source() -> Iterator[int]:
        for number in range(9):
            if number == 5 and at == "source":
                raise LookupError(number)
            yield number

    def work(number: int) -> int:
        if number == 5 and at == "work":
            raise LookupError(number)
        return number

    going = in_lanes(work, source(), 2)
    assert [next(going) for _ in range(5)] == list(range(5))
    with pytest.raises(LookupError, match="5"):
        next(going)


def test_who_stops_reading_leaves_nothing_running() -> None:
    before = threading.active_count()
    going = in_lanes(lambda number: number, range(1000), 2)
    assert next(going) == 0
    going.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
