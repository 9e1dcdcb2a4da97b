"""Webhook endpoints and their deliveries as their owner sees them."""

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from app.jobs.document import Document, Moment
from app.webhooks.sending import message_id
from app.webhooks.subscriptions import Standing
from app.webhooks.tables import Delivery, DeliveryAttempt, DeliveryState, SubscriptionState


class EndpointDocument(Document):
    """A URL that is told of the account's events (none in ``events`` stands for all).

    ``reason`` says why it is disabled: by its ``owner``, because it is ``gone`` (410), or because
    it has been ``failing`` for five days.
    """

    id: UUID
    url: str
    description: str
    events: list[str]
    state: Literal["enabled", "disabled"]
    reason: Literal["owner", "gone", "failing"] | None
    disabled: Moment | None
    failing_since: Moment | None
    created: Moment


class NewEndpointDocument(EndpointDocument):
    """The same with the secret that signs what is sent there."""

    secret: str


class EndpointsDocument(Document):
    """A page of endpoints; pass ``next`` as ``after`` for the following one."""

    data: list[EndpointDocument]
    has_more: bool
    next: UUID | None


class PublicKeyDocument(Document):
    """What verifies the ed25519 signatures (``v1a``) of this account's webhooks."""

    key: str


class ReplayedDocument(Document):
    """How many deliveries are sent again; if there are more, ask again."""

    replayed: int
    has_more: bool


class DeliveryDocument(Document):
    """One event for one URL: of an endpoint, or of the job where ``endpoint`` is null."""

    id: UUID
    webhook_id: str
    type: str
    endpoint: UUID | None
    job: UUID | None
    url: str
    state: Literal["pending", "delivered", "abandoned"]
    attempts: int
    last_status: int | None
    last_error: str | None
    next_attempt: Moment | None
    created: Moment
    ended: Moment | None


class DeliveryAttemptDocument(Document):
    """One attempt: what was sent beside the body, and the first 1,000 bytes of the answer's."""

    number: int
    started: Moment
    duration_ms: int
    request_headers: dict[str, str] | None
    response_status: int | None
    response_body: str | None
    error: str | None


class DeliveryLogDocument(DeliveryDocument):
    """The same with the body that every attempt sends, and the last ten attempts."""

    request_body: str
    log: list[DeliveryAttemptDocument]


class DeliveriesDocument(Document):
    """A page of deliveries; pass ``next`` as ``after`` for the following one."""

    data: list[DeliveryDocument]
    has_more: bool
    next: UUID | None


def endpoint_document(standing: Standing) -> EndpointDocument:
    """Put the rows of an endpoint together."""
    row, endpoint = standing
    by_owner = row.state == SubscriptionState.DISABLED
    disabled = row.disabled_at if by_owner else endpoint and endpoint.disabled_at
    return EndpointDocument(
        id=row.id,
        url=row.url,
        description=row.description,
        events=row.events,
        state="disabled" if disabled else "enabled",
        reason="owner" if by_owner else endpoint and endpoint.disabled_reason,
        disabled=disabled,
        failing_since=endpoint and endpoint.failing_since,
        created=row.created_at,
    )


def delivery_document(row: Delivery) -> DeliveryDocument:
    """A delivery without its body."""
    pending = row.state == DeliveryState.PENDING
    return DeliveryDocument(
        id=row.id,
        webhook_id=message_id(row.id),
        type=row.type,
        endpoint=row.subscription_id,
        job=row.job_id,
        url=row.url,
        state=row.state,
        attempts=row.attempts,
        last_status=row.last_status,
        last_error=row.last_error,
        next_attempt=row.next_attempt_at if pending else None,
        created=row.created_at,
        ended=row.ended_at,
    )


def log_document(row: Delivery, attempts: Sequence[DeliveryAttempt]) -> DeliveryLogDocument:
    """A delivery with all that there is of it."""
    return DeliveryLogDocument(
        **dict(delivery_document(row)),
        request_body=row.body,
        log=[
            DeliveryAttemptDocument(
                number=each.number,
                started=each.started_at,
                duration_ms=each.duration_ms,
                request_headers=each.request_headers,
                response_status=each.status,
                response_body=each.answer,
                error=each.error,
            )
            for each in attempts
        ],
    )
