"""The Flask application: registration only. `gunicorn 'service.app:create_app()'` or `python -m service` serves it."""

from __future__ import annotations

from flask import Flask
from werkzeug.routing import BaseConverter

from service import (
    attestations,
    audits,
    auth,
    blobs,
    errors,
    examples,
    health,
    limits,
    log,
    models,
    uploads,
    watch,
    webhooks,
)  # fmt: skip
from service.dispatch import Bell
from service.guesses import Guesses
from service.oidc import Issuer
from service.settings import Settings
from service.state import EXTENSION, Behind
from telemetry import traces
from vault import storage
from vault.records import Database, migrate


class IdConverter(BaseConverter):
    """An id in a path; the router knows it from what may follow, as in `{id}:cancel`."""

    regex = "[0-9a-hjkmnp-tv-z]{26}"


def create_app(settings: Settings | None = None) -> Flask:
    """The service over what `settings` (or the environment) names; the database is brought up to date first."""
    settings = settings or Settings()
    attestations.signers(settings.signing_key)  # keys that cannot be used are found out now
    traces.begin("caveat-api")
    migrate(settings.database_url)
    app = Flask("service", static_folder=None)
    app.url_map.converters["id"] = IdConverter
    app.url_map.redirect_defaults = False
    app.url_map.merge_slashes = False
    database = Database(settings.database_url)
    issuer = Issuer(settings) if settings.oidc_issuer else None
    kept = storage.opened(settings.blobs_url, database)
    app.extensions[EXTENSION] = Behind(database, kept, Bell(settings.broker_url), settings, issuer, Guesses(settings))
    errors.register(app)
    watch.register(app)
    auth.register(app)
    limits.register(app, settings)
    for part in (blobs, uploads, models, examples, audits, webhooks, log, health):
        app.register_blueprint(part.blueprint)
    return app
