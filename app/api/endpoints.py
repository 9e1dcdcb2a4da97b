"""Webhook endpoints: registered, listed, changed, deleted, tried and caught up with."""

from uuid import UUID

from flask import Blueprint, Response

from app import errors
from app.accounts.principal import Principal
from app.api import parsing
from app.api.operations import operation
from app.api.payloads import PageQuery, SecretDocument
from app.api.refusals import BODY_ERRORS
from app.api.services import services
from app.api.webhookbodies import (
    EndpointChangeBody,
    NewEndpointBody,
    ReplayBody,
)
from app.api.webhookpayloads import (
    DeliveryDocument,
    EndpointDocument,
    EndpointsDocument,
    NewEndpointDocument,
    ReplayedDocument,
    delivery_document,
    endpoint_document,
)
from app.webhooks import addresses, replay, secrets, subscriptions
from app.webhooks.subscriptions import Change, Standing
from app.webhooks.tables import Subscription

blueprint = Blueprint("endpoints", __name__)

_PATH = "/webhooks/endpoints/<endpoint_id>"
_UNKNOWN = (errors.WebhookEndpointNotFound,)
_URL = (errors.WebhookURLRefused,)


@operation(
    blueprint,
    "POST",
    "/webhooks/endpoints",
    body=NewEndpointBody,
    answer=NewEndpointDocument,
    status=201,
    errors=(*BODY_ERRORS, *_URL, errors.WebhookEndpointLimit),
)
def create_endpoint(principal: Principal, body: NewEndpointBody) -> NewEndpointDocument:
    """Register a URL that is told of the account's events, all or those named."""
    addresses.check(body.url, services().settings)
    row = Subscription(
        account_id=principal.account_id,
        url=body.url,
        description=body.description,
        events=subscriptions.names(body.events),
        secret=body.secret,
    )
    with services().database.transaction() as session:
        subscriptions.create(session, row)
        standing = subscriptions.read(session, principal.account_id, row.id)
    return NewEndpointDocument(**dict(endpoint_document(standing)), secret=row.secret)


@operation(
    blueprint,
    "GET",
    "/webhooks/endpoints",
    query=PageQuery,
    answer=EndpointsDocument,
    errors=(errors.InvalidRequest,),
)
def list_endpoints(principal: Principal, query: PageQuery) -> EndpointsDocument:
    """List the registered endpoints, newest first."""
    with services().database.transaction() as session:
        found, more = subscriptions.page(
            session, principal.account_id, after=query.after, limit=query.limit
        )
    data = [endpoint_document(each) for each in found]
    return EndpointsDocument(data=data, has_more=more, next=data[-1].id if more else None)


@operation(blueprint, "GET", _PATH, answer=EndpointDocument, errors=_UNKNOWN)
def get_endpoint(principal: Principal, endpoint_id: str) -> EndpointDocument:
    """Read an endpoint."""
    return endpoint_document(_read(principal, _parse(endpoint_id)))


@operation(
    blueprint,
    "PATCH",
    _PATH,
    body=EndpointChangeBody,
    answer=EndpointDocument,
    errors=(*BODY_ERRORS, *_URL, *_UNKNOWN),
)
def change_endpoint(
    principal: Principal, endpoint_id: str, body: EndpointChangeBody
) -> EndpointDocument:
    """Change an endpoint. What waits for it moves to a new URL, or is given up when it is disabled;
    to enable it forgives its URL all failures.
    """
    wanted = _parse(endpoint_id)
    if body.url is not None:
        addresses.check(body.url, services().settings)
    with services().database.transaction() as session:
        row = subscriptions.owned(session, principal.account_id, wanted, lock=True)
        subscriptions.change(session, row, Change(**dict(body)))
    return endpoint_document(_read(principal, wanted))


@operation(blueprint, "DELETE", _PATH, answer=None, status=204, errors=_UNKNOWN)
def delete_endpoint(principal: Principal, endpoint_id: str) -> Response:
    """Delete an endpoint, and give up what waits for it; its deliveries can still be read."""
    with services().database.transaction() as session:
        row = subscriptions.owned(session, principal.account_id, _parse(endpoint_id), lock=True)
        subscriptions.remove(session, row)
    return Response(status=204)


@operation(blueprint, "GET", f"{_PATH}/secret", answer=SecretDocument, errors=_UNKNOWN)
def endpoint_secret(principal: Principal, endpoint_id: str) -> SecretDocument:
    """Read the secret that signs what is sent to this endpoint."""
    return SecretDocument(key=_read(principal, _parse(endpoint_id)).subscription.secret)


@operation(blueprint, "POST", f"{_PATH}/rotate", answer=SecretDocument, errors=_UNKNOWN)
def rotate_endpoint_secret(principal: Principal, endpoint_id: str) -> SecretDocument:
    """Make a new secret, which signs at once; the old one signs beside it for 24 hours."""
    with services().database.transaction() as session:
        row = subscriptions.owned(session, principal.account_id, _parse(endpoint_id), lock=True)
        return SecretDocument(key=secrets.rotate(session, row))


@operation(
    blueprint,
    "POST",
    f"{_PATH}/test",
    answer=DeliveryDocument,
    status=202,
    errors=(*_UNKNOWN, errors.WebhookEndpointDisabled),
)
def test_endpoint(principal: Principal, endpoint_id: str) -> DeliveryDocument:
    """Send an event of the type webhook.test there, whatever it wants to be told of."""
    with services().database.transaction() as session:
        delivery = replay.trial(session, principal.account_id, _parse(endpoint_id))
    services().broker.enqueue_delivery(delivery.id)
    return delivery_document(delivery)


@operation(
    blueprint,
    "POST",
    f"{_PATH}/replay",
    body=ReplayBody,
    answer=ReplayedDocument,
    status=202,
    errors=(*BODY_ERRORS, *_UNKNOWN, errors.WebhookEndpointDisabled),
)
def replay_failed(principal: Principal, endpoint_id: str, body: ReplayBody) -> ReplayedDocument:
    """Send again what was abandoned at this endpoint of what was recorded since then; 1,000
    deliveries at most, the oldest first.
    """
    with services().database.transaction() as session:
        queued = replay.failed(session, principal.account_id, _parse(endpoint_id), since=body.since)
    if queued:
        services().broker.enqueue_delivery(queued[0])
    return ReplayedDocument(replayed=len(queued), has_more=len(queued) == replay.AT_ONCE)


def _read(principal: Principal, wanted: UUID) -> Standing:
    with services().database.transaction() as session:
        return subscriptions.read(session, principal.account_id, wanted)


def _parse(text: str) -> UUID:
    return parsing.identifier(text, errors.WebhookEndpointNotFound)
