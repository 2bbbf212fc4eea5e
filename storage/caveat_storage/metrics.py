"""Counts and durations that only grow, whatever is deleted later: the counters and histograms for Prometheus.

They are updated in the transaction that ends an audit, so nothing is counted twice or missed, and reading them costs
the same however many audits there were.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, pairwise
from typing import Literal

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from caveat_storage.job_records import Database, Event
from caveat_storage.tables import measures

Metric = Literal["audits", "stages", "expired"]
BOUNDS = ("0.1", "0.3", "1.0", "3.0", "10.0", "30.0", "100.0", "300.0", "1000.0", "3000.0", "10000.0", "+Inf")
"""Bounds of the histogram in seconds, as Prometheus writes them."""
INSERT: dict[str, Callable[..., postgresql.Insert | sqlite.Insert]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}


@dataclass(frozen=True)
class Histogram:
    """A histogram of durations."""

    buckets: list[tuple[str, float]]
    """Each bound, and the number of observations up to it."""
    seconds: float
    """The sum of all durations in seconds."""


def count(connection: Connection, metric: Metric, label: str = "") -> None:
    """Increments a counter."""
    _add(connection, metric, label, "", 0.0)


def observe(connection: Connection, seconds: dict[str, float]) -> None:
    """Records the seconds that an audit spent in each stage, in a fixed order so that transactions cannot deadlock."""
    bounds = [float(bound) for bound in BOUNDS]
    for stage, spent in sorted(seconds.items()):
        _add(connection, "stages", stage, BOUNDS[bisect_left(bounds, spent)], spent)


def stages(history: Iterable[Event], ended: datetime) -> dict[str, float]:
    """The seconds that a job spent in each stage, over all its attempts."""
    spent: dict[str, float] = {}
    steps = [(name, event.at) for event in history if (name := _stage(event))]
    for (name, begun), (_, until) in pairwise([*steps, ("", ended)]):
        spent[name] = spent.get(name, 0.0) + max(0.0, (until - begun).total_seconds())
    return spent


def counted(database: Database, metric: Metric) -> dict[str, int]:
    """The values of a counter by label."""
    wanted = select(measures.c.label, measures.c.times).where(measures.c.metric == metric)
    with database.reading() as connection:
        return {row.label: row.times for row in connection.execute(wanted)}


def durations(database: Database) -> dict[str, Histogram]:
    """The histogram of each stage's duration."""
    with database.reading() as connection:
        rows = connection.execute(select(measures).where(measures.c.metric == "stages")).all()
    found: dict[str, Histogram] = {}
    for stage in sorted({row.label for row in rows}):
        of_stage = {row.bound: row for row in rows if row.label == stage}
        counts = [of_stage[bound].times if bound in of_stage else 0 for bound in BOUNDS]
        found[stage] = Histogram(
            list(zip(BOUNDS, accumulate(counts), strict=True)), sum(row.seconds for row in of_stage.values())
        )
    return found


def _stage(event: Event) -> str | None:
    if event.what in ("submit", "release", "retry"):
        return "queued"
    if event.what == "claim":
        return "loading"
    return event.data.get("stage") if event.what == "advance" else None


def _add(connection: Connection, metric: Metric, label: str, bound: str, seconds: float) -> None:
    values = {"metric": metric, "label": label, "bound": bound, "times": 1, "seconds": seconds}
    row = INSERT[connection.dialect.name](measures).values(**values)
    more = {"times": measures.c.times + 1, "seconds": measures.c.seconds + seconds}
    connection.execute(row.on_conflict_do_update(index_elements=["metric", "label", "bound"], set_=more))
