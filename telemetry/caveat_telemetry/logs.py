"""Logs: one JSON object per line, or text on a terminal; every line names the job and the trace it belongs to.

Modules and libraries log with the standard `logging`; this module renders all of it. What a line quotes, a name of a
file or of a model's tensor, can neither begin another line nor steer a terminal.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager
from typing import Any

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor

from caveat_spec.sanitize import json_text, log_lines, one_line

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
    written: list[Processor] = [ProcessorFormatter.remove_processors_meta, structlog.processors.format_exc_info]
    if plain:
        written += [_clean, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        shared.append(lambda _, __, event: {**event, "component": component})
        as_json = structlog.processors.JSONRenderer(ensure_ascii=False)
        written.append(lambda logger, name, event: json_text(str(as_json(logger, name, event))))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ProcessorFormatter(foreign_pre_chain=shared, processors=written))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def _clean(_: Any, __: str, event: EventDict) -> EventDict:
    """A line for a terminal: of its fields only a traceback has several lines."""
    clean = {"exception": log_lines}
    return {name: clean.get(name, one_line)(one) if isinstance(one, str) else one for name, one in event.items()}


def about(**fields: Any) -> AbstractContextManager[None]:
    """Adds fields to all log lines within the context."""
    return structlog.contextvars.bound_contextvars(**fields)


def forget() -> None:
    """Clears the fields of log lines, because a thread serves one request after another."""
    structlog.contextvars.clear_contextvars()


def note(**fields: Any) -> None:
    """Adds fields to all following log lines, until they are cleared."""
    structlog.contextvars.bind_contextvars(**fields)
