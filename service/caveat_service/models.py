"""Models: register and inspect."""

from __future__ import annotations

from flask import Blueprint, Response

from caveat_service import jobs
from caveat_service.contract import serves
from caveat_spec.artifacts import ModelPage, NewModel
from caveat_spec.openapi import JobsQuery, SubmitHeaders

blueprint = Blueprint("models", __name__)


@serves(blueprint, "create_model")
def create_model(body: NewModel, headers: SubmitHeaders) -> Response:
    """Stores the model and publishes its inspection to the workers."""
    return jobs.submit("model", body, headers)


@serves(blueprint, "get_model")
def get_model(job_id: str) -> Response:
    """Returns the model, with its layers once they are known."""
    return jobs.show("model", job_id)


@serves(blueprint, "list_models")
def list_models(query: JobsQuery) -> Response:
    """Returns a page of models and the token of the next page."""
    return jobs.listing("model", query, ModelPage)
