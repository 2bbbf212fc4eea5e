"""Serves the API: `python -m service`, told by `CAVEAT_*` variables what it needs."""

from __future__ import annotations

from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from prometheus_client import start_http_server

from service.app import create_app
from service.listening import Listener
from service.metrics import registry
from service.settings import Settings
from service.watch import OneVoice
from vault.records import Database

KEPT_OPEN = 75
"""Seconds that an idle connection is kept: longer than clients and proxies keep theirs, so that they close first."""


class Server(BaseApplication):
    """gunicorn with threads, as the settings say."""

    def __init__(self, settings: Settings) -> None:
        """Reads nothing from the command line."""
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Translates the settings into gunicorn's."""
        told: dict[str, Any] = {
            "bind": f"{self.settings.host}:{self.settings.port}",
            "worker_class": Listener,
            "workers": self.settings.processes,
            "threads": self.settings.request_threads,
            "graceful_timeout": 10,
            "keepalive": KEPT_OPEN,
            "logger_class": OneVoice,
        }
        for name, value in told.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:  # type: ignore[override]
        """The application, made in each of the processes."""
        return create_app(self.settings)


def main() -> None:
    """Serves until it is told to stop."""
    settings = Settings()
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.host, registry(Database(settings.database_url)))
    Server(settings).run()


if __name__ == "__main__":
    main()
