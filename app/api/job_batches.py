"""Batches of the native API: many jobs in one request, told of by one webhook at the end."""

from collections.abc import Iterator
from uuid import UUID

import structlog
from flask import Blueprint, Response, g

from app import errors
from app.accounts.principal import Principal
from app.api.accepting import accepted
from app.api.idempotency import idempotency
from app.api.operations import operation
from app.api.parsing import identifier
from app.api.payloads import BatchesDocument, PageQuery
from app.api.refusals import SUBMIT_ERRORS, SUBMIT_HEADERS
from app.api.services import services
from app.errors import GPTQueueError
from app.jobs import sets, telling
from app.jobs.bodies import JobBatchBody
from app.jobs.cancel import cancel_all
from app.jobs.drafts import draft
from app.jobs.sets import AlreadyThere, SetDocument
from app.jobs.submit import Draft
from app.jobs.tables import JobSet
from app.webhooks import addresses

log = structlog.get_logger(__name__)

blueprint = Blueprint("job_batches", __name__)

_CANCELLED_AT_ONCE = 100
_MISSING = (errors.JobSetNotFound,)


@operation(
    blueprint,
    "POST",
    "/batches",
    body=JobBatchBody,
    answer=SetDocument,
    status=202,
    headers=SUBMIT_HEADERS,
    errors=SUBMIT_ERRORS,
)
def create_job_batch(principal: Principal, body: JobBatchBody) -> Response:
    """Submit up to 1,000 jobs, all or none, and be told once when all of them have ended."""
    if body.webhook_url is not None:
        addresses.check(body.webhook_url, services().settings)
    drafts = list(_drafts(principal, body))
    try:
        with services().database.transaction() as session:
            made = sets.create(session, drafts, labels=body.metadata, webhook_url=body.webhook_url)
            document = _document(made)
    except AlreadyThere as found:
        return accepted(_read(principal, found.set_id), replayed=True)
    services().broker.enqueue_jobs([(each.model, each.job_id) for each in drafts])
    log.info("job_batch_submitted", batch_id=str(document.id), jobs=len(drafts))
    return accepted(document, replayed=False)


@operation(
    blueprint,
    "GET",
    "/batches",
    query=PageQuery,
    answer=BatchesDocument,
    errors=(errors.InvalidRequest,),
)
def list_job_batches(principal: Principal, query: PageQuery) -> BatchesDocument:
    """List the account's batches of jobs, newest first."""
    with services().database.transaction() as session:
        found, more = sets.page(session, principal.account_id, after=query.after, limit=query.limit)
        data = [_document(each) for each in found]
    return BatchesDocument(data=data, has_more=more, next=data[-1].id if more else None)


@operation(blueprint, "GET", "/batches/<batch>", answer=SetDocument, errors=_MISSING)
def get_job_batch(principal: Principal, batch: str) -> SetDocument:
    """Read how many jobs of a batch have ended; GET /jobs?batch= lists them."""
    return _read(principal, identifier(batch, errors.JobSetNotFound))


@operation(blueprint, "POST", "/batches/<batch>/cancel", answer=SetDocument, errors=_MISSING)
def cancel_job_batch(principal: Principal, batch: str) -> SetDocument:
    """Cancel every job of a batch that has not ended."""
    unique = identifier(batch, errors.JobSetNotFound)
    _read(principal, unique)
    last: UUID | None = None
    while True:
        with services().database.transaction() as session:
            some = sets.unfinished(session, unique, after=last, limit=_CANCELLED_AT_ONCE)
            ended = cancel_all(session, some, base_url=services().settings.public_url)
        telling.tell(services().broker, ended)
        if not some:
            return _read(principal, unique)
        last = some[-1]


def _drafts(principal: Principal, body: JobBatchBody) -> Iterator[Draft]:
    for place, each in enumerate(body.jobs):
        kind, job = each.as_job()
        try:
            yield draft(
                services().catalog,
                services().settings,
                account_id=principal.account_id,
                kind=kind,
                body=job,
                request_id=g.request_id,
                idempotency=idempotency(place),
            )
        except GPTQueueError as error:
            raise type(error)(f"jobs.{place}: {error.message}", **error.details) from None


def _read(principal: Principal, unique: UUID) -> SetDocument:
    with services().database.transaction() as session:
        return _document(sets.owned(session, principal.account_id, unique))


def _document(made: JobSet) -> SetDocument:
    return sets.document(made, base_url=services().settings.public_url)
