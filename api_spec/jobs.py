"""The queue's contract: what the service asks of a worker, in ids only."""

from __future__ import annotations

from typing import Literal

JobKind = Literal["audit", "model", "examples"]

QUEUE = "caveat"
RUN_JOB = "caveat.run_job"
"""The one task: `run_job(job_id)`. What kind of job it is, and everything else, stands in the database."""
REAP = "caveat.reap"
"""Puts jobs whose lease ran out back into the queue, and rings for those the broker forgot."""
