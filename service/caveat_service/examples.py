"""Example sets: register and inspect."""

from __future__ import annotations

from flask import Blueprint, Response

from caveat_service import jobs
from caveat_service.contract import serves
from caveat_spec.artifacts import ExamplesPage, NewExamples
from caveat_spec.openapi import JobsQuery, SubmitHeaders

blueprint = Blueprint("examples", __name__)


@serves(blueprint, "create_examples")
def create_examples(body: NewExamples, headers: SubmitHeaders) -> Response:
    """Stores the example set and publishes its inspection to the workers."""
    return jobs.submit("examples", body, headers)


@serves(blueprint, "get_examples")
def get_examples(job_id: str) -> Response:
    """Returns the example set, with its contents once they are known."""
    return jobs.show("examples", job_id)


@serves(blueprint, "list_examples")
def list_examples(query: JobsQuery) -> Response:
    """Returns a page of example sets and the token of the next page."""
    return jobs.listing("examples", query, ExamplesPage)
