"""The keys with which a customer verifies our webhooks, and the URLs that are disabled."""

from flask import Blueprint
from sqlalchemy.orm import Session

from app.accounts.principal import Principal
from app.api.operations import operation
from app.api.payloads import (
    DisabledEndpointDocument,
    DisabledEndpointsDocument,
    EndpointBody,
    SecretDocument,
)
from app.api.refusals import BODY_ERRORS
from app.api.services import services
from app.api.webhookpayloads import PublicKeyDocument
from app.webhooks import endpoints
from app.webhooks.secrets import lock, read_public_key, read_secret, rotate

blueprint = Blueprint("webhooks", __name__)


@operation(blueprint, "GET", "/webhooks/default/secret", answer=SecretDocument)
def default_secret(principal: Principal) -> SecretDocument:
    """Read the secret that signs what is sent to the URLs of this account's jobs (Standard
    Webhooks, HMAC-SHA256).
    """
    with services().database.transaction() as session:
        return SecretDocument(key=read_secret(session, principal.account_id))


@operation(blueprint, "POST", "/webhooks/default/rotate", answer=SecretDocument)
def rotate_default_secret(principal: Principal) -> SecretDocument:
    """Make a new one, which signs at once; the old one signs beside it for 24 hours."""
    with services().database.transaction() as session:
        return SecretDocument(key=rotate(session, lock(session, principal.account_id)))


@operation(blueprint, "GET", "/webhooks/public-key", answer=PublicKeyDocument)
def public_key(principal: Principal) -> PublicKeyDocument:
    """Read what verifies the ed25519 signatures of all of this account's webhooks."""
    with services().database.transaction() as session:
        return PublicKeyDocument(key=read_public_key(session, principal.account_id))


@operation(blueprint, "GET", "/webhooks/disabled", answer=DisabledEndpointsDocument)
def disabled_endpoints(principal: Principal) -> DisabledEndpointsDocument:
    """List the URLs that nothing is sent to any more, the latest first."""
    with services().database.transaction() as session:
        return _disabled(session, principal)


@operation(
    blueprint,
    "POST",
    "/webhooks/enable",
    body=EndpointBody,
    answer=DisabledEndpointsDocument,
    errors=BODY_ERRORS,
)
def enable_endpoint(principal: Principal, body: EndpointBody) -> DisabledEndpointsDocument:
    """Send to this URL again, events of jobs that end from now on; answers with the URLs that are
    still disabled. Enabling what is not disabled changes nothing.
    """
    with services().database.transaction() as session:
        endpoints.enable(session, principal.account_id, body.url)
        return _disabled(session, principal)


def _disabled(session: Session, principal: Principal) -> DisabledEndpointsDocument:
    return DisabledEndpointsDocument(
        data=[
            DisabledEndpointDocument(
                url=each.url, reason=each.disabled_reason, disabled=each.disabled_at
            )
            for each in endpoints.disabled(session, principal.account_id)
        ]
    )
