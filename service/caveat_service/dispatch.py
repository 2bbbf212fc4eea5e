"""Publishes jobs to the workers through the broker.

A job is in the database before it is published. If the broker is unavailable, workers find the job once it is back, so
publishing never delays a client for long and never fails its request.
"""

from __future__ import annotations

import logging
import time

from celery import Celery
from kombu.exceptions import OperationalError

from caveat_spec.artifacts import Queue
from caveat_spec.jobs import LISTS, RUN_JOB

log = logging.getLogger(__name__)

SECONDS = 0.5
"""Timeout for publishing, and for asking whether the broker answers."""
AWAY_SECONDS = 5.0
"""How long the broker is skipped after it did not answer."""


class JobPublisher:
    """Publishes jobs to every queue."""

    def __init__(self, broker_url: str) -> None:
        """Connects on first use."""
        self._away_until = 0.0
        self.app = Celery("caveat-service", broker=broker_url, set_as_current=False)
        self.app.conf.update(
            task_default_queue=LISTS["default"],
            task_ignore_result=True,
            broker_connection_timeout=SECONDS,
            broker_transport_options={
                "max_retries": 0,
                "socket_connect_timeout": SECONDS,
                "socket_timeout": SECONDS,
                "retry_on_timeout": False,
            },
        )

    def publish(self, job_id: str, queue: Queue = "default") -> bool:
        """Publishes a queued job; returns False if the broker is unavailable."""
        if self._is_away():
            return False
        try:
            self.app.send_task(RUN_JOB, args=[job_id], queue=LISTS[queue], retry=False)
        except (OperationalError, OSError) as fault:
            log.warning("the broker is unavailable (%s); job %s waits in the database", type(fault).__name__, job_id)
            self._away_until = time.monotonic() + AWAY_SECONDS
            return False
        return True

    def _is_away(self) -> bool:
        """Whether the broker did not answer a moment ago, so that nobody should wait for it."""
        return time.monotonic() < self._away_until

    def is_reachable(self) -> bool:
        """Whether the broker answers."""
        if self._is_away():
            return False
        try:
            with self.app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=0)
                connection.default_channel  # noqa: B018 - opening it calls the broker
        except Exception:
            self._away_until = time.monotonic() + AWAY_SECONDS
            return False
        return True
