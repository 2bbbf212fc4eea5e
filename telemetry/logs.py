"""Logs: a JSON object a line, words on a terminal; every line has the audit and the trace that it is about.

Modules write with the standard library's `logging`, libraries too; what they write is rendered here, once.
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
"""Libraries whose everyday words are nobody's business."""


def begin(component: str, level: str) -> None:
    """Renders everything that this process logs from here on, on standard error."""
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
    """What every line is about that is logged in this context."""
    return structlog.contextvars.bound_contextvars(**fields)


def forget() -> None:
    """Lets the lines that follow be about nothing: a thread that served somebody serves somebody else."""
    structlog.contextvars.clear_contextvars()


def note(**fields: Any) -> None:
    """Lets the lines that follow be about this too, until it is forgotten."""
    structlog.contextvars.bind_contextvars(**fields)
