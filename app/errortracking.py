"""Sentry, when a DSN is set. What customers wrote never leaves: no bodies, no local variables."""

import sentry_sdk
from sentry_sdk.integrations import Integration

from app.config import Settings


def configure(settings: Settings, *integrations: Integration) -> None:
    """Start the SDK for this process; without a DSN nothing happens."""
    if not settings.sentry_dsn:
        return
    sentry_sdk.init(
        dsn=settings.sentry_dsn,
        integrations=list(integrations),
        send_default_pii=False,  # no Authorization header, no client address
        max_request_body_size="never",
        include_local_variables=False,
    )
