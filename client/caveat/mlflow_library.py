"""MLflow as Caveat imports it: without its progress bars and without the usage figures that it sends."""

from __future__ import annotations

import os
from typing import Any

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}
"""What holds unless the environment says otherwise; MLflow's own seven retries take four minutes."""


def import_mlflow() -> Any:
    """The module `mlflow`; only sources and trackers of MLflow need it."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow
    import mlflow.artifacts

    return mlflow
