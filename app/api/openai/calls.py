"""A call as jobs: one for each choice, submitted, waited for, and ended if nobody waits."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from uuid import UUID

import structlog
from flask import g, request

from app import errors
from app.accounts.principal import Principal
from app.api.bodies import JobBody
from app.api.drafts import draft
from app.api.idempotency import idempotency, sent_key
from app.api.openai.bodies import CallBody
from app.api.presence import is_gone
from app.api.services import Services, services
from app.errors import GPTQueueError
from app.jobs import telling
from app.jobs.cancel import cancel
from app.jobs.document import JobDocument
from app.jobs.states import TERMINAL

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0  # so long a job may run on for a client that is gone


@dataclass(frozen=True, slots=True)
class Call:
    """The jobs of a call. ``comes_back`` says that its client can ask for them again."""

    services: Services
    account_id: UUID
    job_ids: Sequence[UUID]
    comes_back: bool

    def wait(self) -> list[JobDocument]:
        """The jobs, all of which succeeded.

        Raises CallTimedOut, ClientGone after cancelling them, and what became of one that did not
        succeed.
        """
        give_up = time.monotonic() + self.services.settings.call_wait_seconds
        environ = request.environ
        done = []
        for job_id in self.job_ids:
            while (job := self._read(job_id)).status not in TERMINAL:
                if is_gone(environ):
                    self.abandon()
                    raise errors.ClientGone
                if time.monotonic() >= give_up:
                    raise _timed_out(self.job_ids)
                self.services.watchers.wait(job_id, _LOOK_SECONDS)
            done.append(job)
        for job in done:
            raise_failure(job)
        return done

    def kept(self) -> "Call":
        """The same call, whose jobs go on whoever leaves."""
        return replace(self, comes_back=True)

    def abandon(self) -> None:
        """The client is gone: end what it waited for, unless it can ask for it again."""
        if self.comes_back:
            return
        base_url = self.services.settings.public_url
        for job_id in self.job_ids:
            with self.services.database.transaction() as session:
                ended = cancel(session, self.account_id, job_id, base_url=base_url)
            if ended is not None:
                telling.tell(self.services.broker, [ended])

    def _read(self, job_id: UUID) -> JobDocument:
        return self.services.reader.read(self.account_id, job_id)


def submit(
    principal: Principal,
    kind: str,
    body: JobBody,
    *,
    choices: int,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Call:
    """Submit a job for each choice; all or, where one is refused, none. ``more`` is kept with their
    parameters.

    Raises what a submit of a single job raises.
    """
    comes_back = sent_key() is not None
    call = Call(services(), principal.account_id, [], comes_back=comes_back)
    for number in range(choices):
        chosen = body.model_copy(update={"seed": _seed(body.seed, number)})
        prepared = draft(
            services(),
            principal,
            kind=kind,
            body=chosen,
            request_id=g.request_id,
            idempotency=idempotency(number),
        )
        prepared = replace(prepared, parameters={**prepared.parameters, **more})
        try:
            accepted = services().submitter.submit(prepared)
        except GPTQueueError:
            replace(call, comes_back=False).abandon()
            raise
        log.info("job_submitted", model=body.model, kind=kind, job_id=str(accepted.job_id))
        call = replace(call, job_ids=[*call.job_ids, accepted.job_id])
    return call


def common(body: CallBody) -> dict[str, Any]:
    """What a job of ours takes as it was sent."""
    return {
        "model": body.model,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "seed": None if body.seed is None else body.seed % 2**63,
        "stop": body.stop,
        "stop_token_ids": body.stop_token_ids,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "priority": body.priority,
        "deadline_seconds": body.deadline_seconds,
        "webhook_url": body.webhook_url,
    }


def raise_failure(job: JobDocument) -> None:
    """Raise what went wrong with a job that has ended, if something did."""
    if job.status == "succeeded":
        return
    if job.status == "cancelled":
        raise errors.JobCancelled(f"The job {job.id} was cancelled.")
    if job.status == "expired":
        raise errors.JobExpired(f"The job {job.id} did not end before its deadline.")
    assert job.error is not None
    known = {each.code: each for each in (errors.ContextLengthExceeded, errors.InvalidRequest)}
    failure = known.get(job.error.code, errors.JobFailed)
    raise failure(f"The job {job.id} failed: {job.error.message}")


def _timed_out(job_ids: Sequence[UUID]) -> errors.CallTimedOut:
    places = ", ".join(f"GET /api/v1/jobs/{job_id}" for job_id in job_ids)
    return errors.CallTimedOut(f"The call took too long; its job goes on. Ask for it: {places}.")


def _seed(given: int | None, number: int) -> int:
    """A choice's seed. Always one, so that a job that has to begin again says the same again."""
    return secrets.randbits(63) if given is None else (given + number) % 2**63
