"""The contract between the service and a worker: what work there is, what it asks, gives and reads.

The queue carries ids only. A job's request stands in the database as the very document that the client sent.
"""

from __future__ import annotations

from typing import Literal

from api_spec.artifacts import ExampleSummary, Inspection, NewExamples, NewModel
from api_spec.audit import Audit
from api_spec.report import Report

JobKind = Literal["audit", "model", "examples"]

QUEUE = "caveat"
RUN_JOB = "caveat.run_job"
"""The one task: `run_job(job_id)`. What kind of job it is, and everything else, stands in the database."""

Request = Audit | NewModel | NewExamples
Result = Report | Inspection | ExampleSummary

REQUESTS: dict[JobKind, type[Request]] = {"audit": Audit, "model": NewModel, "examples": NewExamples}
RESULTS: dict[JobKind, type[Result]] = {"audit": Report, "model": Inspection, "examples": ExampleSummary}


def sources(request: Request) -> dict[str, str]:
    """Where the bytes of a request are: JSON pointer → digest (or path, on the command line)."""
    if isinstance(request, Audit):
        return request.sources()
    if isinstance(request, NewModel):
        gradient = {} if request.gradient is None else {"/gradient/blob": request.gradient.blob}
        return {"/blob": request.blob} | gradient
    return {f"/examples/{field}": getattr(request.examples, field) for field in request.examples.SOURCES}
