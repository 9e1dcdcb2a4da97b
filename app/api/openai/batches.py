"""Batches: many requests in a file, done within a day at a lower price."""

from uuid import UUID

import structlog
from flask import Blueprint, request

from app import errors
from app.accounts.principal import Principal
from app.api.idempotency import sent_key
from app.api.openai.lists import BatchesQuery, BatchList, parsed_id
from app.api.operations import COMPATIBLE, operation
from app.api.refusals import BODY_ERRORS
from app.api.services import services
from app.batches import creating, queries
from app.batches.creating import NewBatch
from app.batches.queries import batch_object
from app.openai.batches import BatchBody, BatchObject

log = structlog.get_logger(__name__)

blueprint = Blueprint("openai_batches", __name__, url_prefix=COMPATIBLE)

# The SDK counts its own repetitions, and sends no Idempotency-Key with them.
_REPETITIONS = "X-Stainless-Retry-Count"
_HEADERS = {
    "Idempotency-Key": "The same key with the same request makes one batch.",
    _REPETITIONS: "Of the SDK: above 0, an equal batch of the last minutes is answered, not another"
    " made.",
}


@operation(
    blueprint,
    "POST",
    "/batches",
    body=BatchBody,
    answer=BatchObject,
    headers=_HEADERS,
    errors=(*BODY_ERRORS, errors.IdempotencyKeyReused),
)
def create_batch(principal: Principal, body: BatchBody) -> BatchObject:
    """Do the requests of a file, each as a job of low priority at the batch price."""
    asked = NewBatch(
        account_id=principal.account_id,
        key_id=principal.key_id,
        body=body,
        input_file_id=_input_id(body.input_file_id),
        idempotency_key=sent_key(),
        is_repeated=request.headers.get(_REPETITIONS, "0") != "0",
    )
    with services().database.transaction() as session:
        batch = creating.create(session, asked)
    services().broker.enqueue_batch(batch.id)
    log.info("batch_created", batch_id=str(batch.id), endpoint=batch.endpoint)
    return batch_object(batch)


@operation(
    blueprint,
    "GET",
    "/batches",
    query=BatchesQuery,
    answer=BatchList,
    errors=(errors.InvalidRequest,),
)
def list_batches(principal: Principal, query: BatchesQuery) -> BatchList:
    """List the account's batches, newest first."""
    with services().database.transaction() as session:
        found, more = queries.page(
            session, principal.account_id, after=query.after, limit=query.limit
        )
    return BatchList.of([batch_object(batch) for batch in found], more=more)


@operation(blueprint, "GET", "/batches/<batch>", answer=BatchObject, errors=(errors.BatchNotFound,))
def get_batch(principal: Principal, batch: str) -> BatchObject:
    """Read how far a batch is."""
    unique = parsed_id(batch, "batch_", errors.BatchNotFound)
    with services().database.statement() as session:
        return batch_object(queries.owned_batch(session, principal.account_id, unique))


@operation(
    blueprint,
    "POST",
    "/batches/<batch>/cancel",
    answer=BatchObject,
    errors=(errors.BatchNotFound, errors.BatchEnded),
)
def cancel_batch(principal: Principal, batch: str) -> BatchObject:
    """Cancel a batch; what has been done by then is in its files."""
    unique = parsed_id(batch, "batch_", errors.BatchNotFound)
    with services().database.transaction() as session:
        found = creating.cancel_batch(session, principal.account_id, unique)
    services().broker.enqueue_batch(unique)
    return batch_object(found)


def _input_id(text: str) -> UUID | None:
    try:
        return parsed_id(text, "file-", errors.FileNotFound)
    except errors.FileNotFound:
        return None
