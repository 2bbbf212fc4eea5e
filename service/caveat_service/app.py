"""The Flask application: registration only. Served by `python -m caveat_service` or by any WSGI server."""

from __future__ import annotations

from flask import Flask, Response, abort, request
from werkzeug.routing import BaseConverter

from caveat_service import (
    attestations,
    audit_log,
    audits,
    auth,
    blobs,
    console,
    errors,
    examples,
    health,
    instrumentation,
    limits,
    models,
    problems,
    raters,
    retention,
    sessions,
    slow_answers,
    studies,
    uploads,
    webhooks,  # fmt: skip
)
from caveat_service.auth_throttle import AuthThrottle
from caveat_service.client_watch import ClientWatch
from caveat_service.dispatch import JobPublisher
from caveat_service.oidc import Issuer
from caveat_service.settings import Settings
from caveat_service.slow_answers import SlowAnswers
from caveat_service.slow_bodies import SlowBodies
from caveat_service.state import EXTENSION, AppContext
from caveat_storage import blob_registry, upgrade
from caveat_storage.job_records import Database
from caveat_telemetry import traces


class IdConverter(BaseConverter):
    """An id in a path; its pattern ends before suffixes such as `:cancel`."""

    regex = "[0-9a-hjkmnp-tv-z]{26}"


class RestConverter(BaseConverter):
    """The rest of a path, slashes included."""

    regex = ".+"
    part_isolating = False


def create_app(settings: Settings | None = None) -> Flask:
    """Creates the service, after the database was migrated. Settings come from the environment by default."""
    settings = settings or Settings()
    attestations.signers(settings.signing_key)  # fail at start if the keys cannot be used
    traces.begin("caveat-api")
    upgrade.prepare(settings.database_url)
    app = Flask("service", static_folder=None)
    app.url_map.converters.update(id=IdConverter, rest=RestConverter)
    app.url_map.redirect_defaults = False
    app.url_map.merge_slashes = False
    database = Database(settings.database_url)
    issuer = Issuer(settings) if settings.oidc_issuer else None
    kept = blob_registry.opened(settings.blobs_url, database)
    app.extensions[EXTENSION] = AppContext(
        database, kept, JobPublisher(settings.broker_url), settings, issuer, AuthThrottle(settings)
    )
    retention.begin(database, settings)
    errors.register(app)
    app.before_request(_under_one_path)
    app.after_request(_as_declared)
    instrumentation.register(app)
    sessions.register(app, settings)
    auth.register(app)
    limits.register(app, settings)
    for part in (
        blobs, uploads, models, examples, audits, studies, raters, webhooks, audit_log, health, console, problems,
    ):  # fmt: skip
        app.register_blueprint(part.blueprint)
    app.after_request(slow_answers.remember_place)
    watch = ClientWatch()
    app.wsgi_app = SlowAnswers(SlowBodies(app.wsgi_app, watch), watch)  # type: ignore[method-assign]
    return app


def _under_one_path() -> None:
    """Serves nothing under a second path: the router drops slashes in front, past proxies' rules for the one path."""
    if request.environ["PATH_INFO"].startswith("//"):
        abort(404)


def _as_declared(response: Response) -> Response:
    """Keeps browsers from guessing another type of content: bytes of a tenant could be taken for a page."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
