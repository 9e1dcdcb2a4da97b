"""The task of a generation queue: claim -> generate -> finish -> tell.

A message is only a hint that work may wait: an unknown or ended job id in it is dropped quietly,
because what is claimed is whatever queued job of the model comes first.
"""

import time
from collections.abc import Callable

import structlog

from app.billing.prices import Usage
from app.errors import DatabaseUnavailable, EngineClosed, EngineLost, GPTQueueError, LeaseLost
from app.jobs import finish
from app.jobs.claim import Claimed
from app.jobs.states import Outcome
from app.jobs.transition import End, Lease
from app.logs import frames
from app.streams import storable
from workers import logprobs
from workers.engines.base import Generation
from workers.process import Process
from workers.serving import Serving

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 0.5
CROWDED = "It was lost before, and runs when fewer others that were do."


def generate(process: Process, serving: Serving) -> None:
    """Do one job of this model or its adapters, if one waits."""
    try:
        claimed = serving.claim_next()
    except DatabaseUnavailable:
        log.warning("claim_missed")  # the sweep sends another message
        return
    if claimed is None:
        return
    with (
        structlog.contextvars.bound_contextvars(
            job_id=str(claimed.lease.job_id), request_id=claimed.request_id
        ),
        serving.heartbeat.keeping(claimed.lease),
    ):
        if not serving.suspects.enter(claimed.losses):
            _give_back(claimed, process.hand_back, outcome=Outcome.HANDED_BACK, reason=CROWDED)
            return
        try:
            _do(process, serving, claimed)
        finally:
            if called := serving.suspects.leave(claimed.losses):
                process.broker.enqueue_jobs([(claimed.model, claimed.lease.job_id)] * called)


def _do(process: Process, serving: Serving, claimed: Claimed) -> None:
    """Run the job, and write how it ended or give it back."""
    try:
        end = _run(serving, claimed)
    except EngineLost as error:
        # The job may be what killed the engine; so this counts towards max_attempts.
        _give_back(claimed, process.lose, outcome=Outcome.LOST, reason=error.message)
    except EngineClosed as error:
        _give_back(claimed, process.hand_back, outcome=Outcome.HANDED_BACK, reason=error.message)
    else:
        _finish(process, claimed, end)


def _run(serving: Serving, claimed: Claimed) -> End:
    """How the job is to end; raises EngineLost or EngineClosed when others are to take it."""
    log.info("job_started", attempt=claimed.lease.attempt, model=claimed.model)
    try:
        return _succeeded(claimed, serving.run(claimed))
    except (EngineLost, EngineClosed):
        raise
    except GPTQueueError as error:
        return _failed(claimed, error)
    except Exception as error:
        return _crashed(claimed, error)


def _succeeded(claimed: Claimed, generation: Generation) -> End:
    result = finish.Result(
        text=storable(generation.text),
        finish_reason=generation.finish_reason.value,
        usage=Usage(generation.prompt_tokens, generation.completion_tokens),
        logprobs=logprobs.as_json(generation.logprobs),
    )
    log.info(
        "job_generated",
        finish_reason=result.finish_reason,
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=generation.completion_tokens,
    )
    return finish.succeeded(claimed.lease, result)


def _failed(claimed: Claimed, error: GPTQueueError) -> End:
    log.warning("job_failed", code=error.code)
    return finish.failed(claimed.lease, code=error.code, message=error.message)


def _crashed(claimed: Claimed, error: Exception) -> End:
    # Without its words: a library's message can quote the prompt.
    log.error("job_crashed", error=type(error).__name__, frames=frames(error))
    return _failed(claimed, GPTQueueError())


def _finish(process: Process, claimed: Claimed, end: End) -> None:
    """Write how the job ended, or that it failed if that is what cannot be written."""
    try:
        _write(process, end)
    except DatabaseUnavailable:
        raise  # the sweep rescues the job when the database is back
    except Exception as error:
        _write(process, _crashed(claimed, error))


def _give_back(
    claimed: Claimed, give: Callable[[Lease], None], *, outcome: Outcome, reason: str
) -> None:
    try:
        give(claimed.lease)
        log.info("job_given_back", outcome=outcome, reason=reason)
    except DatabaseUnavailable:
        log.warning("job_left_behind")  # its lease runs out, and the sweep takes it back


def _write(process: Process, end: End) -> None:
    """While the database is away, what was generated is kept and tried again, until the lease would
    be long lost.
    """
    give_up = time.monotonic() + 4 * process.settings.lease_seconds
    while True:
        try:
            process.finish(end)
            return
        except LeaseLost:
            log.warning("result_discarded")
            return
        except DatabaseUnavailable:
            if time.monotonic() > give_up:
                raise
            time.sleep(_RETRY_SECONDS)
