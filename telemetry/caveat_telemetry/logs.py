"""Logs: one JSON object per line, or text on a terminal; every line names the job and the trace it belongs to.

Modules and libraries log with the standard `logging`; this module renders all of it.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager
from typing import Any

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import Processor

TALKATIVE = ("alembic", "urllib3", "botocore", "aiobotocore", "s3fs", "fsspec")
"""Libraries that are logged only from warnings on."""


def begin(component: str, level: str) -> None:
    """Configures this process's logging, which is rendered on standard error from here on."""
    plain = sys.stderr.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    written: list[Processor] = [ProcessorFormatter.remove_processors_meta]
    if plain:
        written.append(structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback))
    else:
        shared.append(lambda _, __, event: {**event, "component": component})
        written += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ProcessorFormatter(foreign_pre_chain=shared, processors=written))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def about(**fields: Any) -> AbstractContextManager[None]:
    """Adds fields to all log lines within the context."""
    return structlog.contextvars.bound_contextvars(**fields)


def forget() -> None:
    """Clears the fields of log lines, because a thread serves one request after another."""
    structlog.contextvars.clear_contextvars()


def note(**fields: Any) -> None:
    """Adds fields to all following log lines, until they are cleared."""
    structlog.contextvars.bind_contextvars(**fields)
