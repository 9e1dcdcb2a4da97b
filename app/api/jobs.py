"""Submit, read, list, cancel."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID

import structlog
from flask import Blueprint, Response, g, request

from app import errors
from app.accounts.principal import Principal
from app.api.accepting import accepted
from app.api.cancelling import cancel_job
from app.api.conversations import with_history
from app.api.idempotency import idempotency
from app.api.operations import operation
from app.api.payloads import JobsDocument, JobsQuery
from app.api.refusals import SUBMIT_ERRORS, SUBMIT_HEADERS
from app.api.services import services
from app.jobs import queries
from app.jobs.bodies import ChatBody, JobBody, PromptBody
from app.jobs.document import JobDocument
from app.jobs.drafts import draft
from app.jobs.states import TERMINAL

log = structlog.get_logger(__name__)

blueprint = Blueprint("jobs", __name__)

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_LONGEST_WAIT = timedelta(seconds=60)
_PREFER = {"Prefer": '"wait=n": answer when the job has ended, or after n seconds (60 at most).'}
_HEADERS = {**SUBMIT_HEADERS, **_PREFER}


@operation(
    blueprint,
    "POST",
    "/generate",
    body=PromptBody,
    answer=JobDocument,
    status=202,
    headers=_HEADERS,
    errors=SUBMIT_ERRORS,
)
def generate(principal: Principal, body: PromptBody) -> Response:
    """Submit a prompt, put into the model's chat template as the user's message."""
    return _submit(principal, "generate", body)


@operation(
    blueprint,
    "POST",
    "/complete",
    body=PromptBody,
    answer=JobDocument,
    status=202,
    headers=_HEADERS,
    errors=SUBMIT_ERRORS,
)
def complete(principal: Principal, body: PromptBody) -> Response:
    """Submit a prompt that the model continues as it stands, without a chat template."""
    return _submit(principal, "complete", body)


@operation(
    blueprint,
    "POST",
    "/chat",
    body=ChatBody,
    answer=JobDocument,
    status=202,
    headers=_HEADERS,
    errors=SUBMIT_ERRORS,
)
def chat(principal: Principal, body: ChatBody) -> Response:
    """Submit a chat; the model writes the next message."""
    whole, own = with_history(principal, body)
    return _submit(principal, "chat", whole, more=own)


@operation(
    blueprint,
    "GET",
    "/jobs/<job_id>",
    answer=JobDocument,
    also=(304,),
    headers={**_PREFER, "If-None-Match": "The ETag of the job as you have it."},
    errors=(errors.JobNotFound,),
)
def get_job(principal: Principal, job_id: str) -> Response:
    """Read a job. With "Prefer: wait=n" the answer comes when it has ended, or after n seconds
    (60 at most). One that has ended has an ETag; 304: it is as you have it.
    """
    document = _read_when_ended(principal, parse_id(job_id))
    response = Response(document.model_dump_json(), mimetype="application/json")
    if document.status in TERMINAL:
        response.add_etag()
        response.make_conditional(request)
    return response


@operation(
    blueprint,
    "GET",
    "/jobs",
    query=JobsQuery,
    answer=JobsDocument,
    errors=(errors.InvalidRequest,),
)
def list_jobs(principal: Principal, query: JobsQuery) -> JobsDocument:
    """List the account's jobs, newest first."""
    wanted = queries.Filter(
        status=query.status,
        model=query.model,
        set_id=query.batch,
        after=query.after,
        limit=query.limit,
    )
    settings = services().settings
    with services().database.transaction() as session:
        found, more = queries.page(
            session,
            principal.account_id,
            wanted,
            base_url=settings.public_url,
            fresh_seconds=settings.lease_seconds,
        )
    return JobsDocument(data=found, has_more=more, next=found[-1].id if more else None)


@operation(
    blueprint,
    "POST",
    "/jobs/<job_id>/cancel",
    answer=JobDocument,
    errors=(errors.JobNotFound,),
)
def cancel(principal: Principal, job_id: str) -> JobDocument:
    """Cancel a job: at once while it is queued, within seconds while it runs. Cancelling a job
    that has ended changes nothing.
    """
    wanted = parse_id(job_id)
    cancel_job(services(), principal.account_id, wanted)
    return _read(principal, wanted)


def _submit(
    principal: Principal, kind: str, body: JobBody, *, more: Mapping[str, Any] = _NOTHING
) -> Response:
    prepared = draft(
        services().catalog,
        services().settings,
        account_id=principal.account_id,
        kind=kind,
        body=body,
        request_id=g.request_id,
        idempotency=idempotency(),
    )
    prepared = replace(prepared, parameters={**prepared.parameters, **more})
    stored = services().submitter.submit(prepared)
    structlog.contextvars.bind_contextvars(job_id=str(stored.job_id))
    if stored.document is None:
        return accepted(_read_when_ended(principal, stored.job_id), replayed=True)
    log.info("job_submitted", model=prepared.model, kind=kind)
    return accepted(_new_when_ended(principal, stored.document), replayed=False)


def _read(principal: Principal, job_id: UUID) -> JobDocument:
    return services().reader.read(principal.account_id, job_id)


def _new_when_ended(principal: Principal, document: JobDocument) -> JobDocument:
    """A job that is stored: whatever happens to the database now, the answer is yes."""
    try:
        return _when_ended(principal, document)
    except errors.DatabaseUnavailable:
        return document


def _read_when_ended(principal: Principal, job_id: UUID) -> JobDocument:
    return _when_ended(principal, _read(principal, job_id))


def _when_ended(principal: Principal, document: JobDocument) -> JobDocument:
    seconds = _preferred_wait()
    if not seconds or document.status in TERMINAL:
        return document
    services().watchers.wait(document.id, seconds)
    return _read(principal, document.id)


def _preferred_wait() -> float:
    """Seconds of "Prefer: wait=n" (RFC 7240), 0 without one."""
    found = re.search(r"(?:^|[,;\s])wait=(\d+)\b", request.headers.get("Prefer", ""))
    return min(float(found[1]), _LONGEST_WAIT.total_seconds()) if found else 0.0


def parse_id(text: str) -> UUID:
    """A job's id; raises JobNotFound where it is none."""
    try:
        return UUID(text)
    except ValueError:
        raise errors.JobNotFound from None
