"""Sentry, when a DSN is set. What customers wrote never leaves: no bodies, no local variables."""

import sentry_sdk
import structlog
from sentry_sdk.integrations import Integration
from sentry_sdk.types import Event, Hint

from app.config import Settings


def configure(settings: Settings, *integrations: Integration) -> None:
    """Start the SDK for this process; without a DSN nothing happens."""
    if not settings.sentry_dsn:
        return
    sentry_sdk.init(
        dsn=settings.sentry_dsn,
        integrations=list(integrations),
        auto_enabling_integrations=False,  # only those named: others may send more than we know
        send_default_pii=False,  # no Authorization header, no client address
        max_request_body_size="never",
        include_local_variables=False,
        before_send=_identify,
    )


def _identify(event: Event, hint: Hint) -> Event:
    """Tag with the request and the job, and let our own events be found by their names."""
    event.setdefault("tags", {}).update(structlog.contextvars.get_contextvars())
    said = getattr(hint.get("log_record"), "msg", None)
    if isinstance(said, dict):  # structlog's way to hand an event to the standard library
        event["logentry"] = {"message": said["event"]}
        event.setdefault("extra", {}).update(said)
    return event
