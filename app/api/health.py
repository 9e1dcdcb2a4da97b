"""Alive, ready, and in figures: what load balancers and Prometheus ask, without a key."""

import hmac

from flask import Blueprint, Response, request
from prometheus_client import CONTENT_TYPE_LATEST
from redis.exceptions import RedisError

from app.api import engines
from app.api.metrics import exposition
from app.api.operations import operation
from app.api.payloads import (
    DependencyDocument,
    HealthDocument,
    ModelStatusDocument,
    StatusDocument,
)
from app.api.services import Services, services
from app.errors import DatabaseUnavailable, InvalidCredential
from app.fleet.presence import ModelPresence, by_model
from app.fleet.tables import WorkerState

blueprint = Blueprint("health", __name__)


@operation(blueprint, "GET", "/health", answer=HealthDocument, public=True)
def health() -> HealthDocument:
    """The process is alive; nothing else is asked."""
    return HealthDocument()


@operation(blueprint, "GET", "/status", answer=StatusDocument, also=(503,), public=True)
def status() -> Response:
    """Database, broker, and for each model its queue and its live workers; 503 when jobs cannot be
    accepted because the database does not answer.
    """
    presence = _presence(services())
    depths = _depths(services())
    document = StatusDocument(
        ready=presence is not None,
        database=DependencyDocument(ok=presence is not None),
        broker=DependencyDocument(ok=depths is not None),
        models={
            name: _model(name, presence or {}, depths)
            for name in sorted(services().catalog.enabled())
        },
    )
    return Response(
        document.model_dump_json(),
        status=200 if document.ready else 503,
        mimetype="application/json",
    )


@operation(
    blueprint,
    "GET",
    "/metrics",
    answer=None,
    public=True,
    errors=(InvalidCredential, DatabaseUnavailable),
)
def metrics() -> Response:
    """Counters and gauges in the Prometheus text format."""
    token = services().settings.metrics_token
    offered = request.headers.get("Authorization", "")
    if token and not hmac.compare_digest(offered.encode(), f"Bearer {token}".encode()):
        raise InvalidCredential("This address wants the token of GPTQUEUE_METRICS_TOKEN.")
    presence = _presence(services())
    text = exposition(services(), presence, _depths(services()))
    return Response(text, content_type=CONTENT_TYPE_LATEST)


def _presence(parts: Services) -> dict[str, ModelPresence] | None:
    try:
        with parts.database.transaction() as session:
            return by_model(session, parts.settings.lease_seconds)
    except DatabaseUnavailable:
        return None


def _depths(parts: Services) -> dict[str, int] | None:
    try:
        return parts.broker.depths(parts.catalog.enabled())
    except (RedisError, OSError):
        return None


def _model(
    name: str, presence: dict[str, ModelPresence], depths: dict[str, int] | None
) -> ModelStatusDocument:
    there = presence.get(name, ModelPresence())
    return ModelStatusDocument(
        ready=there.workers[WorkerState.READY] > 0,
        queue_depth=depths[name] if depths is not None else None,
        workers={state.value: there.workers[state] for state in _SHOWN},
        errors=there.errors,
        engines=[engines.document(each) for each in there.engines],
    )


_SHOWN = (WorkerState.LOADING, WorkerState.READY, WorkerState.FAILED)
