"""The task of a generation queue: claim -> generate -> finish -> tell.

A message is only a hint that work may wait: an unknown or ended job id in it is dropped quietly,
because what is claimed is whatever queued job of the model comes first.
"""

import time
from collections.abc import Callable

import structlog
from sqlalchemy.orm import Session

from app.billing.prices import Usage
from app.errors import DatabaseUnavailable, EngineClosed, GPTQueueError, LeaseLost
from app.jobs import finish
from app.jobs.claim import Claimed
from app.jobs.ending import Ended
from app.logs import frames
from workers.engines.base import Generation
from workers.process import Process
from workers.serving import Serving

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 0.5


def generate(process: Process, serving: Serving) -> None:
    """Do one job of this model, if one waits."""
    claimed = serving.claim_next()
    if claimed is None:
        return
    with (
        structlog.contextvars.bound_contextvars(
            job_id=str(claimed.lease.job_id), request_id=claimed.request_id
        ),
        serving.heartbeat.keeping(claimed.lease),
    ):
        ended = _run(process, serving, claimed)
    if ended is not None:
        process.tell(ended)


def _run(process: Process, serving: Serving, claimed: Claimed) -> Ended | None:
    log.info("job_started", attempt=claimed.lease.attempt, model=serving.identity.model)
    try:
        return _write(process, _finishing(process, claimed, serving.run(claimed)))
    except DatabaseUnavailable:
        raise  # the sweep rescues the job when the database is back
    except EngineClosed:
        log.warning("job_left_behind")
        return None  # not the job's fault: its lease runs out, and another worker takes it over
    except GPTQueueError as error:
        return _write(process, _failing(process, claimed, error))
    except Exception as error:
        # Without its words: a library's message can quote the prompt.
        log.error("job_crashed", error=type(error).__name__, frames=frames(error))
        return _write(process, _failing(process, claimed, GPTQueueError()))


Write = Callable[[Session], Ended]


def _finishing(process: Process, claimed: Claimed, generation: Generation) -> Write:
    result = finish.Result(
        text=generation.text.replace("\x00", "\ufffd"),  # PostgreSQL cannot store NUL
        finish_reason=generation.finish_reason.value,
        usage=Usage(generation.prompt_tokens, generation.completion_tokens),
    )
    log.info(
        "job_generated",
        finish_reason=result.finish_reason,
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=generation.completion_tokens,
    )
    base_url = process.settings.public_url
    return lambda session: finish.finish(session, claimed.lease, result, base_url=base_url)


def _failing(process: Process, claimed: Claimed, error: GPTQueueError) -> Write:
    log.warning("job_failed", code=error.code)
    base_url = process.settings.public_url
    return lambda session: finish.fail(
        session, claimed.lease, code=error.code, message=error.message, base_url=base_url
    )


def _write(process: Process, write: Write) -> Ended | None:
    """Write how the job ended. While the database is away, what was generated is kept and tried
    again, until the lease would be long lost.
    """
    give_up = time.monotonic() + 4 * process.settings.lease_seconds
    while True:
        try:
            with process.database.transaction() as session:
                return write(session)
        except LeaseLost:
            log.warning("result_discarded")
            return None
        except DatabaseUnavailable:
            if time.monotonic() > give_up:
                raise
            time.sleep(_RETRY_SECONDS)
