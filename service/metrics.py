"""What Prometheus reads, counted in the database when it asks: right after a restart, from any process."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from vault import records
from vault.records import Database


class Jobs(Collector):
    """Jobs by kind and state, and what happened to them."""

    def __init__(self, database: Database) -> None:
        """Counts in `database`."""
        self.database = database

    def collect(self) -> Iterator[Metric]:
        """Counts."""
        jobs = GaugeMetricFamily("caveat_jobs", "Jobs by kind and state.", labels=["kind", "state"])
        for (kind, state), count in records.count_jobs(self.database).items():
            jobs.add_metric([kind, state], count)
        yield jobs
        happened = records.count_events(self.database)
        events = CounterMetricFamily("caveat_events", "Steps in the life of jobs.", labels=["what"])
        for what, count in happened.items():
            events.add_metric([what], count)
        yield events
        expired = happened.get("retry", 0) + happened.get("give_up", 0)
        yield CounterMetricFamily("caveat_lease_expired", "Leases that ran out.", value=expired)
        yield GaugeMetricFamily("caveat_queue_depth", "Jobs that wait.", value=records.count_waiting(self.database))


def registry(database: Database) -> CollectorRegistry:
    """Everything there is to read."""
    found = CollectorRegistry()
    found.register(Jobs(database))
    return found
