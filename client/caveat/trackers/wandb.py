"""Weights & Biases: one run for each report, in the project and the mode that its own settings name."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from caveat.trackers.run_record import RunRecord, write_files
from caveat_storage.temporary_folders import temporary_folder

SETTINGS = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
"""What holds unless the environment says otherwise."""
SECONDS_TO_START = 30
"""How long its server may take to answer."""


def log(record: RunRecord) -> str:
    """Logs a record as a run, which is shown as crashed if it breaks off; says where it is."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import wandb  # only this tracker needs it

    settings = wandb.Settings(
        console="off", disable_code=True, init_timeout=SECONDS_TO_START, x_disable_stats=True, x_save_requirements=False
    )
    started = wandb.init(
        id=secrets.token_hex(4),
        name=record.name,
        notes=record.description,
        job_type="audit",
        config=record.tags,
        reinit="create_new",
        settings=settings,
    )
    with started as run:
        run.summary.update(record.metrics)
        _log_files(wandb, run, record)
    if run.offline:
        return f"run {run.id}, which is kept in {Path(run.dir).parent}: `wandb sync` sends it"
    return f"run {run.id} at {run.url}"


def _log_files(wandb: Any, run: Any, record: RunRecord) -> None:
    """Logs the files as one artifact, and waits until its server has it."""
    with temporary_folder() as folder:
        write_files(record, folder / "files")
        artifact = wandb.Artifact(f"caveat-{run.id}", type="audit", description=record.description)
        artifact.add_dir(str(folder / "files"))
        logged = run.log_artifact(artifact)
        if not run.offline:
            logged.wait()
