"""Included by test workers: replaces the pipeline with the stub in every process of the worker's pool."""

from functools import partial

from caveat_worker.jobs import tasks
from caveat_worker.jobs.supervisor import supervise

tasks.supervise = partial(supervise, pipeline="tests.worker.stub_pipeline")  # type: ignore[assignment]
