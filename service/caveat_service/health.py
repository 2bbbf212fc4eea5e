"""Liveness, readiness, and the description of the API."""

from __future__ import annotations

from importlib.resources import files

from flask import Blueprint, Response, send_from_directory

from caveat_service import auth
from caveat_service.contract import answer, conditional_response, serves
from caveat_service.state import app_context
from caveat_spec import openapi
from caveat_spec.artifacts import Health, Readiness

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
    """Answers that the process is running."""
    return answer(Health())


@serves(blueprint, "get_readiness")
def get_readiness() -> Response:
    """Returns the state of the services behind the API, which needs its database and its blob store to be ready."""
    checks = app_context().readiness
    database, blobs, broker = checks.database.answer(), checks.blobs.answer(), checks.broker.answer()
    ready = database.problem is None and blobs is None
    readiness = Readiness(
        status="ready" if ready else "not_ready",
        database="up" if database.problem is None else "down",
        blobs="up" if blobs is None else "down",
        broker="up" if broker else "down",
        workers=database.workers if database.problem is None and auth.is_known() else {},
        queues=database.queues,
        problems=[code for code in (database.problem, blobs) if code is not None],
    )
    return answer(readiness, 200 if ready else 503)


@serves(blueprint, "get_openapi")
def get_openapi() -> Response:
    """Returns the OpenAPI document."""
    return conditional_response(Response(openapi.text(), content_type="application/json"))


@blueprint.get("/docs")
def get_docs() -> Response:
    """Serves the documentation page."""
    return Response(DOCS_PAGE, headers={"Content-Security-Policy": DOCS_POLICY})


@blueprint.get("/docs/<name>")
def get_docs_file(name: str) -> Response:
    """Serves the page's files from the installed Swagger UI, so nothing is loaded from elsewhere."""
    if name == "start.js":
        return Response(DOCS_START, content_type="text/javascript")
    return send_from_directory(str(SWAGGER_UI), name if name in SWAGGER_UI_FILES else "none", max_age=86400)
