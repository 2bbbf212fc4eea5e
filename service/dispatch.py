"""Rings the bell: tells the workers through the broker that a job waits.

The job is in the database before the bell rings. If the broker is away the bell is silent, and the workers find the
job by themselves once it is back; so ringing must never make a client wait, nor fail its request.
"""

from __future__ import annotations

import logging

from celery import Celery
from kombu.exceptions import OperationalError

from api_spec.artifacts import Queue
from api_spec.jobs import LISTS, RUN_JOB

log = logging.getLogger(__name__)

SECONDS = 1.0
"""How long the bell may take."""


class Bell:
    """A producer for every queue."""

    def __init__(self, broker_url: str) -> None:
        """Connects on first use."""
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

    def ring(self, job_id: str, queue: Queue = "default") -> bool:
        """Says that a job waits; False if nobody can hear it now."""
        try:
            self.app.send_task(RUN_JOB, args=[job_id], queue=LISTS[queue], retry=False)
        except (OperationalError, OSError) as fault:
            log.warning("the broker is away (%s); job %s waits in the database", type(fault).__name__, job_id)
            return False
        return True

    def is_heard(self) -> bool:
        """Whether the broker answers."""
        try:
            with self.app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=0)
                connection.default_channel  # noqa: B018 - opening it asks the broker
        except Exception:
            return False
        return True
