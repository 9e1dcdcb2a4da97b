"""The log of webhook deliveries, and sending one again."""

from flask import Blueprint

from app import errors
from app.accounts.principal import Principal
from app.api import parsing
from app.api.operations import operation
from app.api.services import services
from app.api.webhookbodies import DeliveriesQuery
from app.api.webhookpayloads import (
    DeliveriesDocument,
    DeliveryDocument,
    DeliveryLogDocument,
    delivery_document,
    log_document,
)
from app.webhooks import attempts, journal, replay

blueprint = Blueprint("deliveries", __name__)

_PATH = "/webhooks/deliveries/<delivery_id>"
_UNKNOWN = (errors.WebhookDeliveryNotFound,)


@operation(
    blueprint,
    "GET",
    "/webhooks/deliveries",
    query=DeliveriesQuery,
    answer=DeliveriesDocument,
    errors=(errors.InvalidRequest,),
)
def list_deliveries(principal: Principal, query: DeliveriesQuery) -> DeliveriesDocument:
    """List what was or is to be sent, newest first."""
    wanted = journal.Filter(
        subscription_id=query.endpoint,
        job_id=query.job,
        state=query.state,
        since=query.since,
        after=query.after,
        limit=query.limit,
    )
    with services().database.transaction() as session:
        found, more = journal.page(session, principal.account_id, wanted)
    data = [delivery_document(each) for each in found]
    return DeliveriesDocument(data=data, has_more=more, next=data[-1].id if more else None)


@operation(blueprint, "GET", _PATH, answer=DeliveryLogDocument, errors=_UNKNOWN)
def get_delivery(principal: Principal, delivery_id: str) -> DeliveryLogDocument:
    """Read a delivery with its body and its last ten attempts."""
    wanted = parsing.identifier(delivery_id, errors.WebhookDeliveryNotFound)
    with services().database.transaction() as session:
        row = journal.owned(session, principal.account_id, wanted)
        return log_document(row, attempts.read(session, row.id))


@operation(
    blueprint,
    "POST",
    f"{_PATH}/replay",
    answer=DeliveryDocument,
    status=202,
    errors=(
        *_UNKNOWN,
        errors.WebhookEndpointNotFound,
        errors.WebhookDeliveryPending,
        errors.WebhookEndpointDisabled,
    ),
)
def replay_delivery(principal: Principal, delivery_id: str) -> DeliveryDocument:
    """Send a delivery that has ended again, at once: the same webhook-id and body, signed anew."""
    wanted = parsing.identifier(delivery_id, errors.WebhookDeliveryNotFound)
    with services().database.transaction() as session:
        row = replay.one(session, principal.account_id, wanted)
    services().broker.enqueue_delivery(row.id)
    return delivery_document(row)
