"""A call as jobs: one for each choice, submitted, waited for, and ended if nobody waits."""

import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from uuid import UUID

import structlog
from flask import g, request

from app import errors
from app.accounts.principal import Principal
from app.api.cancelling import cancel_job
from app.api.idempotency import idempotency, sent_key
from app.api.presence import is_gone
from app.api.services import Services, services
from app.errors import GPTQueueError
from app.jobs.bodies import JobBody
from app.jobs.document import JobDocument
from app.jobs.drafts import draft
from app.jobs.states import TERMINAL
from app.jobs.submit import Draft, Submitted
from app.jobs.submit import submit as submit_jobs
from app.openai.jobs import raise_failure

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 1.0  # while the database is away
# While the database is away, a job of nobody's cannot be cancelled.
_CANCEL_SECONDS, _CANCEL_PAUSE_SECONDS = 300.0, 2.0


@dataclass(frozen=True, slots=True)
class Call:
    """The jobs of a call. ``comes_back`` says that its client can ask for them again."""

    services: Services
    account_id: UUID
    job_ids: Sequence[UUID]
    comes_back: bool

    def wait(self) -> list[JobDocument]:
        """The jobs, all of which succeeded.

        Raises CallTimedOut, ClientGone, and what became of one that did not succeed.
        """
        give_up = time.monotonic() + self.services.settings.call_wait_seconds
        return [self._ended(job_id, give_up) for job_id in self.job_ids]

    def _ended(self, job_id: UUID, give_up: float) -> JobDocument:
        environ = request.environ
        while not is_gone(environ):
            left = give_up - time.monotonic()
            if left <= 0:
                raise _timed_out(self.job_ids)
            try:
                self.services.watchers.wait(job_id, left, unless=lambda: is_gone(environ))
                job = self.services.reader.read(self.account_id, job_id)
                if job.status in TERMINAL:
                    raise_failure(job)
                    return job
            except errors.DatabaseUnavailable:
                time.sleep(_PAUSE_SECONDS)  # the job goes on meanwhile, and so does the client
        raise errors.ClientGone

    @contextmanager
    def held(self) -> Iterator[None]:
        """End the jobs if the block does not come to its end, however that is: nobody would hear of
        them. Only who was told where to ask, by CallTimedOut, may still want them.
        """
        try:
            yield
        except errors.CallTimedOut:
            raise
        except BaseException:  # also when this process is stopped
            self.abandon()
            raise

    def kept(self) -> "Call":
        """The same call, whose jobs go on whoever leaves."""
        return replace(self, comes_back=True)

    def abandon(self) -> None:
        """The client is gone: end what it waited for, unless it can ask for it again."""
        if self.comes_back:
            return
        left = self._cancel(self.job_ids)
        if left:
            threading.Thread(target=self._cancel_later, args=(left,), daemon=True).start()

    def _cancel(self, job_ids: Sequence[UUID]) -> list[UUID]:
        """Cancel jobs; those that the database could not be asked for."""
        left = []
        for job_id in job_ids:
            try:
                cancel_job(self.services, self.account_id, job_id)
            except errors.DatabaseUnavailable:
                left.append(job_id)
        return left

    def _cancel_later(self, left: list[UUID]) -> None:
        give_up = time.monotonic() + _CANCEL_SECONDS
        while left and time.monotonic() < give_up:
            time.sleep(_CANCEL_PAUSE_SECONDS)
            left = self._cancel(left)


def submit(
    principal: Principal,
    kind: str,
    body: JobBody,
    *,
    choices: int,
    text: str,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Call:
    """Submit a job for each choice; all or, where one is refused, none. ``text`` is the parameter
    that has the prompt; ``more`` is kept with the jobs' parameters.

    Raises what a submit of a single job raises.
    """
    drafts = []
    for number in range(choices):
        try:
            prepared = draft(
                services().catalog,
                services().settings,
                account_id=principal.account_id,
                kind=kind,
                body=body.model_copy(update={"seed": _seed(body.seed, number)}),
                request_id=g.request_id,
                idempotency=idempotency(number),
            )
        except errors.ContextLengthExceeded as error:
            error.details["errors"] = [{"field": text, "message": error.message}]
            raise
        drafts.append(replace(prepared, parameters={**prepared.parameters, **more}))
    job_ids = _stored(drafts)
    log.info("job_submitted", model=body.model, kind=kind, job_ids=[str(each) for each in job_ids])
    comes_back = sent_key() is not None
    return Call(services(), principal.account_id, job_ids, comes_back=comes_back)


def _stored(drafts: Sequence[Draft]) -> list[UUID]:
    """Store these jobs; all or none."""
    if len(drafts) == 1:  # beside those of others
        return [services().submitter.submit(drafts[0]).job_id]
    with services().database.transaction() as session:
        answers = submit_jobs(session, drafts)
        refusal = next((each for each in answers if isinstance(each, GPTQueueError)), None)
        if refusal is not None:
            raise refusal
    found = [each for each in answers if isinstance(each, Submitted)]
    new = {each.job_id for each in found if each.new is not None}
    services().broker.enqueue_jobs(
        [(each.model, each.job_id) for each in drafts if each.job_id in new]
    )
    return [each.job_id for each in found]


def _timed_out(job_ids: Sequence[UUID]) -> errors.CallTimedOut:
    places = ", ".join(f"GET /api/v1/jobs/{job_id}" for job_id in job_ids)
    return errors.CallTimedOut(f"The call took too long; its job goes on. Ask for it: {places}.")


def _seed(given: int | None, number: int) -> int:
    """A choice's seed. Always one, so that a job that has to begin again says the same again."""
    return secrets.randbits(63) if given is None else (given + number) % 2**63
