"""Experiment trackers that a report can be logged to: one row each, and a module of that name in this package.

A module has one function, `log(record)`, which logs a `RunRecord` as a run of its own and says where that is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tracker:
    """One experiment tracker."""

    words: str
    """What people call it."""
    modules: tuple[str, ...]
    """The packages that have to be there."""
    extra: str
    """The extra of this distribution that installs them."""
    remedy: str
    """What to look at where nothing could be logged."""


TRACKERS = {
    "mlflow": Tracker(
        "MLflow",
        ("mlflow",),
        "mlflow",
        "Set $MLFLOW_TRACKING_URI to a tracking server that answers; a database in its place needs the whole of MLflow "
        "(`pip install mlflow`).",
    ),
    "wandb": Tracker(
        "Weights & Biases",
        ("wandb",),
        "wandb",
        "Set $WANDB_API_KEY, and $WANDB_BASE_URL for a server of your own; with WANDB_MODE=offline the run is kept "
        "here for `wandb sync`.",
    ),
}
