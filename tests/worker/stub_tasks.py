"""Included by test workers: puts the stub in the pipeline's place, in every process of the worker's pool."""

from functools import partial

from worker import tasks
from worker.supervisor import supervise

tasks.supervise = partial(supervise, pipeline="tests.worker.stub_pipeline")  # type: ignore[assignment]
