"""MLflow: one run for each report, below the run that is active or that `$MLFLOW_RUN_ID` names."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from caveat.mlflow_library import import_mlflow
from caveat.trackers.run_record import RunRecord, write_files
from caveat_storage.temporary_folders import temporary_folder

AT_ONCE = 900
"""Figures of one request; MLflow takes 1,000."""


def log(record: RunRecord) -> str:
    """Logs a record as a run, which MLflow shows as failed if it breaks off; says which run of which experiment."""
    mlflow = import_mlflow()
    try:
        return _logged(mlflow, record)
    except mlflow.exceptions.MlflowException as error:
        if isinstance(error.__context__, OSError):  # every error of its HTTP library is one
            raise ConnectionError(f"{mlflow.get_tracking_uri()} does not answer") from error
        raise


def _logged(mlflow: Any, record: RunRecord) -> str:
    with _no_run_in_the_environment() as parent:
        client = mlflow.MlflowClient()
        active = mlflow.active_run() or (parent and client.get_run(parent))
        above = {"parent_run_id": active.info.run_id, "experiment_id": active.info.experiment_id} if active else {}
        about = {"run_name": record.name, "description": record.description, "tags": record.tags}
        with mlflow.start_run(nested=True, **about, **above) as run:
            _log_metrics(mlflow, client, run.info.run_id, record.metrics)
            _log_files(client, run.info.run_id, record)
        experiment = client.get_experiment(run.info.experiment_id)
    return f"run {run.info.run_id} of the experiment '{experiment.name}' at {mlflow.get_tracking_uri()}"


@contextmanager
def _no_run_in_the_environment() -> Iterator[str | None]:
    """Takes away `$MLFLOW_RUN_ID`, which would make MLflow go on with that run and then end it."""
    parent = os.environ.pop("MLFLOW_RUN_ID", None)
    try:
        yield parent
    finally:
        if parent is not None:
            os.environ["MLFLOW_RUN_ID"] = parent


def _log_metrics(mlflow: Any, client: Any, run: str, metrics: dict[str, float]) -> None:
    now = int(time.time() * 1000)
    left = iter(metrics.items())
    while batch := list(islice(left, AT_ONCE)):
        client.log_batch(run, metrics=[mlflow.entities.Metric(name, value, now, 0) for name, value in batch])


def _log_files(client: Any, run: str, record: RunRecord) -> None:
    with temporary_folder() as folder:
        write_files(record, folder / "files")
        client.log_artifacts(run, str(folder / "files"), "caveat")
