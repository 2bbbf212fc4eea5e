"""Models: a blob, and what is in it."""

from __future__ import annotations

from flask import Blueprint, Response

from api_spec.artifacts import NewModel
from api_spec.openapi import SubmitHeaders
from service import jobs
from service.contract import serves

blueprint = Blueprint("models", __name__)


@serves(blueprint, "create_model")
def create_model(body: NewModel, headers: SubmitHeaders) -> Response:
    """Keeps the model; a worker looks into it."""
    return jobs.submit("model", body, headers)


@serves(blueprint, "get_model")
def get_model(job_id: str) -> Response:
    """Shows the model, and its layers once they are known."""
    return jobs.show("model", job_id)
