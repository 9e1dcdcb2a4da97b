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
from app.api.idempotency import idempotency, sent_key
from app.api.presence import is_gone
from app.api.services import Services, services
from app.errors import GPTQueueError
from app.jobs import telling
from app.jobs.bodies import JobBody
from app.jobs.cancel import cancel
from app.jobs.document import JobDocument
from app.jobs.drafts import draft
from app.jobs.states import TERMINAL
from app.openai.jobs import raise_failure

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
            services().catalog,
            services().settings,
            account_id=principal.account_id,
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


def _timed_out(job_ids: Sequence[UUID]) -> errors.CallTimedOut:
    places = ", ".join(f"GET /api/v1/jobs/{job_id}" for job_id in job_ids)
    return errors.CallTimedOut(f"The call took too long; its job goes on. Ask for it: {places}.")


def _seed(given: int | None, number: int) -> int:
    """A choice's seed. Always one, so that a job that has to begin again says the same again."""
    return secrets.randbits(63) if given is None else (given + number) % 2**63
