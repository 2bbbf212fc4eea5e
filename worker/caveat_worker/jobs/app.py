"""The Celery application: `celery -A caveat_worker.jobs.app worker`. `docs/decisions` explains its settings.

The database holds every job, so the broker may lose any message. SIGTERM is Celery's warm shutdown:
`caveat_worker.jobs.reaper.drain` lets running jobs continue for a while, then asks for them back, and the worker exits.
SIGQUIT is the soft shutdown, which sleeps for its whole timeout even if the job ends sooner.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from celery import Celery
from celery.signals import (
    celeryd_init,
    setup_logging,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from kombu import Exchange, Queue

from caveat_spec.jobs import LISTS, in_flight
from caveat_storage.temporary_folders import delete_orphaned
from caveat_telemetry import logs, traces
from caveat_worker.jobs import reaper, webhook_sender
from caveat_worker.jobs.sandbox import missing_protections
from caveat_worker.jobs.settings import settings
from caveat_worker.jobs.supervisor import make_ready, scratch_folder

log = logging.getLogger(__name__)

SOFT_SHUTDOWN_SECONDS = 60
UNPROTECTED = 78
"""Exit code of a worker that lacks a required protection: `EX_CONFIG` of sysexits.h."""
UNACKED = in_flight(settings().serves)

app = Celery("caveat", broker=settings().broker_url, include=["caveat_worker.jobs.tasks"], set_as_current=False)
app.conf.update(
    task_default_queue=LISTS["default"],
    task_queues=[Queue(name, Exchange(name), name) for name in (LISTS[queue] for queue in settings().serves)],
    task_serializer="json",
    accept_content=["json"],
    task_acks_late=True,
    task_reject_on_worker_lost=False,
    task_retry_on_worker_lost=True,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    task_time_limit=2 * settings().wall_seconds + 120,
    worker_concurrency=settings().concurrency,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    worker_pool_start_method="spawn",
    worker_soft_shutdown_timeout=SOFT_SHUTDOWN_SECONDS,
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": 2 * (settings().wall_seconds + 120),
        "unacked_key": UNACKED,
        "unacked_index_key": f"{UNACKED}_index",
        "unacked_mutex_key": f"{UNACKED}_mutex",
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
    },
)


def _log(**_: Any) -> None:
    logs.begin("worker", settings().log_level)


def _require_sandbox(**_: Any) -> None:
    """Ends the worker before it serves if its kernel lacks a protection that its operator requires."""
    if settings().require_sandbox and (missing := missing_protections()):
        log.critical(
            "this worker does not serve: its sandbox lacks %s. Give it a kernel and a seccomp profile that allow it "
            "(docs/operations.md#the-sandbox-in-a-restricted-pod), or set CAVEAT_REQUIRE_SANDBOX=false",
            ", ".join(missing),
        )
        sys.exit(UNPROTECTED)


def _delete_orphaned(**_: Any) -> None:
    """Deletes what workers that were killed left on the scratch disk, before the first job needs its room."""
    delete_orphaned(scratch_folder())


def _trace(**_: Any) -> None:
    traces.begin("caveat-worker")


def _end_traces(**_: Any) -> None:
    traces.end()


def _make_ready(**_: Any) -> None:
    make_ready(settings().limits)


celeryd_init.connect(_log, weak=False)  # before Celery logs any warning
celeryd_init.connect(_require_sandbox, weak=False)
celeryd_init.connect(_delete_orphaned, weak=False)
setup_logging.connect(_log, weak=False)
worker_process_init.connect(_trace, weak=False)
worker_process_init.connect(_make_ready, weak=False)
worker_process_shutdown.connect(_end_traces, weak=False)
worker_ready.connect(reaper.begin, weak=False)
worker_ready.connect(webhook_sender.begin, weak=False)
worker_shutting_down.connect(reaper.drain, weak=False)
worker_shutdown.connect(reaper.end, weak=False)
worker_shutdown.connect(webhook_sender.end, weak=False)
