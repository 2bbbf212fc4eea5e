"""Prometheus metrics, counted in the database on each scrape: correct right after a restart, from any process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from caveat_storage import blob_registry, job_records, metrics, webhooks
from caveat_storage.job_records import SEEN_WITHIN, Database
from caveat_storage.job_state import ENDED


class DatabaseCollector(Collector):
    """Collects metrics of jobs, audits, webhooks and workers."""

    def __init__(self, database: Database) -> None:
        """Takes the database to count in."""
        self.database = database

    def collect(self) -> Iterator[Metric]:
        """Yields all metrics."""
        jobs = GaugeMetricFamily("caveat_jobs", "Jobs by kind and state.", labels=["kind", "state"])
        for (kind, state), count in job_records.count_jobs(self.database).items():
            jobs.add_metric([kind, state], count)
        yield jobs
        events = CounterMetricFamily("caveat_events", "Steps taken by jobs.", labels=["what"])
        for what, count in job_records.count_events(self.database).items():
            events.add_metric([what], count)
        yield events
        depth = GaugeMetricFamily("caveat_queue_depth", "Queued jobs, by queue.", labels=["queue"])
        for queue, count in job_records.count_waiting(self.database).items():
            depth.add_metric([queue], count)
        yield depth
        expired = metrics.counted(self.database, "expired").get("", 0)
        yield CounterMetricFamily("caveat_lease_expired", "Leases that expired.", value=expired)
        damaged = blob_registry.count_damaged(self.database)
        yield GaugeMetricFamily("caveat_damaged_blobs", "Blobs whose stored bytes are damaged.", value=damaged)
        yield from self._audits()
        yield from self._webhooks()
        yield from self._workers()

    def _audits(self) -> Iterator[Metric]:
        ended = metrics.counted(self.database, "audits")
        audits = CounterMetricFamily("caveat_audits", "Audits that ended, by final state.", labels=["state"])
        for state in sorted(ENDED):
            audits.add_metric([state], ended.get(state, 0))
        yield audits
        took = HistogramMetricFamily(
            "caveat_audit_duration_seconds", "Time that ended audits spent in each stage.", labels=["stage"]
        )
        for stage, histogram in metrics.durations(self.database).items():
            took.add_metric([stage], histogram.buckets, histogram.seconds)
        yield took

    def _webhooks(self) -> Iterator[Metric]:
        there = webhooks.count_webhooks(self.database)
        registered = GaugeMetricFamily("caveat_webhooks", "Webhooks, enabled or disabled.", labels=["state"])
        for state in ("enabled", "disabled"):
            registered.add_metric([state], there.get(state, 0))
        yield registered
        written = webhooks.count_deliveries(self.database)
        messages = GaugeMetricFamily(
            "caveat_webhook_deliveries", "Messages to webhooks in the last 30 days.", labels=["state"]
        )
        for state in ("pending", "delivered", "failed"):
            messages.add_metric([state], written.get(state, 0))
        yield messages

    def _workers(self) -> Iterator[Metric]:
        alive = job_records.alive(self.database, within=SEEN_WITHIN)
        yield GaugeMetricFamily("caveat_workers", "Workers seen in the last minute.", value=len(alive))
        serving = GaugeMetricFamily("caveat_queue_workers", "Workers by queue.", labels=["queue"])
        for queue, count in job_records.serving(self.database, within=SEEN_WITHIN).items():
            serving.add_metric([queue], count)
        yield serving
        lacking = GaugeMetricFamily(
            "caveat_workers_lacking", "Workers whose kernel lacks a sandbox protection.", labels=["protection"]
        )
        for protection, workers in sorted(Counter(one for missing in alive.values() for one in missing).items()):
            lacking.add_metric([protection], workers)
        yield lacking


def registry(database: Database) -> CollectorRegistry:
    """The registry with all metrics."""
    found = CollectorRegistry()
    found.register(DatabaseCollector(database))
    return found
