"""What the cluster and the operator look at: liveness, readiness, and the API's own description."""

from __future__ import annotations

from importlib.resources import files

from flask import Blueprint, Response, send_from_directory
from sqlalchemy.exc import DBAPIError

from api_spec import openapi
from api_spec.artifacts import Health, Readiness
from service.contract import answer, serves, unless_known
from service.state import behind
from vault import records
from vault.records import SEEN_WITHIN

blueprint = Blueprint("health", __name__)

SWAGGER_UI = files("flask_swagger_ui") / "dist"
SWAGGER_UI_FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
DOCS_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
DOCS_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Caveat: the API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="/docs/favicon-32x32.png">
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""
DOCS_START = "SwaggerUIBundle({url: '/v1/openapi.json', dom_id: '#swagger-ui', deepLinking: true});\n"


@serves(blueprint, "get_health")
def get_health() -> Response:
    """Says that this process lives."""
    return answer(Health())


@serves(blueprint, "get_readiness")
def get_readiness() -> Response:
    """Says what is up behind the API; without its database or its blobs it cannot serve."""
    there = behind()
    try:
        workers = records.alive(there.database, within=SEEN_WITHIN)
        queues = records.serving(there.database, within=SEEN_WITHIN)
        database = True
    except DBAPIError:
        workers, queues, database = {}, {}, False
    blobs = there.blobs.is_writable()
    ready = database and blobs
    readiness = Readiness(
        status="ready" if ready else "not_ready",
        database="up" if database else "down",
        blobs="up" if blobs else "down",
        broker="up" if there.bell.is_heard() else "down",
        workers=workers,
        queues=queues,
    )
    return answer(readiness, 200 if ready else 503)


@serves(blueprint, "get_openapi")
def get_openapi() -> Response:
    """Gives the OpenAPI document."""
    return unless_known(Response(openapi.text(), content_type="application/json"))


@blueprint.get("/docs")
def get_docs() -> Response:
    """Shows the OpenAPI document to a person."""
    return Response(DOCS_PAGE, headers={"Content-Security-Policy": DOCS_POLICY})


@blueprint.get("/docs/<name>")
def get_docs_file(name: str) -> Response:
    """Gives what the page needs, from the package that carries Swagger UI: nothing comes from elsewhere."""
    if name == "start.js":
        return Response(DOCS_START, content_type="text/javascript")
    return send_from_directory(str(SWAGGER_UI), name if name in SWAGGER_UI_FILES else "none", max_age=86400)
