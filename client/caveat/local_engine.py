"""A process that imports the engine in advance."""

from __future__ import annotations

from contextlib import suppress

from caveat.installation import can_audit


def start_engine() -> None:
    """Starts the process that will fork the job, so that it imports the engine while this one reads the audit.

    Settings that are wrong are reported where they are used.
    """
    if can_audit():
        from caveat_worker.jobs import forkserver
        from caveat_worker.jobs.environment import environment, threads_by_environment

        with suppress(ValueError, ZeroDivisionError):
            forkserver.ready(environment(threads_by_environment()))
