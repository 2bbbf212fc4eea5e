"""Example sets: a blob, how it is read, and what is in it."""

from __future__ import annotations

from flask import Blueprint, Response

from api_spec.artifacts import NewExamples
from api_spec.openapi import SubmitHeaders
from service import jobs
from service.contract import serves

blueprint = Blueprint("examples", __name__)


@serves(blueprint, "create_examples")
def create_examples(body: NewExamples, headers: SubmitHeaders) -> Response:
    """Keeps the example set; a worker looks into it."""
    return jobs.submit("examples", body, headers)


@serves(blueprint, "get_examples")
def get_examples(job_id: str) -> Response:
    """Shows the example set, and what is in it once that is known."""
    return jobs.show("examples", job_id)
