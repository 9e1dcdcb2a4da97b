"""HTTP: parse, call, render. ``create_app`` is the composition root of an API process."""

from collections.abc import Collection
from uuid import UUID

import structlog
from flask import Flask
from sentry_sdk.integrations.flask import FlaskIntegration

from app import catalog, config, errortracking, logs, schema
from app.api import (
    console,
    conversations,
    deliveries,
    endpoints,
    events,
    health,
    job_batches,
    jobs,
    models,
    openapi,
    problems,
    quotes,
    requestids,
    transport,
    usage,
    webhooks,
    websockets,
)
from app.api.authentication import Authenticator
from app.api.openai import batches, chat, completions, files, responses
from app.api.openai import models as openai_models
from app.api.operations import NATIVE
from app.api.reading import Reader
from app.api.services import Services
from app.api.submitting import Submitter
from app.api.watchers import Watchers
from app.db import Database
from app.jobs import queries
from app.jobs.queries import Standing
from app.queues import Broker

_NATIVE_PARTS = (
    jobs,
    job_batches,
    conversations,
    quotes,
    events,
    websockets,
    models,
    usage,
    webhooks,
    endpoints,
    deliveries,
    health,
    openapi,
    console,
)
_COMPATIBLE_PARTS = (chat, completions, responses, files, batches, openai_models)


def create_app(settings: config.Settings | None = None) -> Flask:
    """The API as a WSGI application, for these settings (default: the environment's)."""
    settings = settings or config.current()
    logs.configure(settings)
    errortracking.configure(settings, FlaskIntegration())
    app = Flask("gptqueue", static_folder=None)
    app.url_map.merge_slashes = False  # a redirect would be HTML
    # One byte more than a body may have: Werkzeug cuts a chunked one there without a word.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes + 1
    database = Database(settings, schema.metadata)
    broker = Broker(settings)
    app.extensions["gptqueue"] = Services(
        settings=settings,
        catalog=catalog.load(settings.catalog_file),
        database=database,
        broker=broker,
        submitter=Submitter(settings, database, broker),
        reader=Reader(settings, database),
        authenticator=Authenticator(database),
        watchers=Watchers(broker, lambda job_ids: _standings(database, job_ids)),
    )
    transport.install(app, settings)
    requestids.install(app)
    problems.install(app)
    for part in _NATIVE_PARTS:
        app.register_blueprint(part.blueprint, url_prefix=NATIVE)
    for compatible in _COMPATIBLE_PARTS:
        app.register_blueprint(compatible.blueprint)
    structlog.get_logger(__name__).info("api_started")
    return app


def _standings(database: Database, job_ids: Collection[UUID]) -> dict[UUID, Standing]:
    with database.statement() as session:
        return queries.standings(session, job_ids)
