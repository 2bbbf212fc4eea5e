"""Serves the API: `python -m caveat_service`, configured by `CAVEAT_*` environment variables."""

from __future__ import annotations

from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from prometheus_client import start_http_server

from caveat_service.app import create_app
from caveat_service.gunicorn_worker import GunicornWorker
from caveat_service.instrumentation import GunicornLogger
from caveat_service.metrics import registry
from caveat_service.settings import Settings
from caveat_storage.job_records import Database

KEPT_OPEN = 75
"""Seconds until an idle connection is closed; longer than clients and proxies use, so that they close first."""


class Server(BaseApplication):
    """A gunicorn server configured by the settings."""

    def __init__(self, settings: Settings) -> None:
        """Ignores the command line."""
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Translates the settings into gunicorn's."""
        options: dict[str, Any] = {
            "bind": f"{self.settings.host}:{self.settings.port}",
            "worker_class": GunicornWorker,
            "workers": self.settings.processes,
            "threads": self.settings.request_threads,
            "graceful_timeout": 10,
            "keepalive": KEPT_OPEN,
            "limit_request_line": 0,  # none of its own: the worker limits the whole head
            "logger_class": GunicornLogger,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:  # type: ignore[override]
        """Creates the application, once in each process."""
        return create_app(self.settings)


def main() -> None:
    """Serves until the process is stopped."""
    settings = Settings()
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.host, registry(Database(settings.database_url)))
    Server(settings).run()


if __name__ == "__main__":
    main()
