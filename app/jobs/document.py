"""A job as its owner sees it: the answer of the API and the data of a webhook."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, PlainSerializer

from app.billing.tables import Charge
from app.jobs.tables import Attempt, Job, Output
from app.webhooks.tables import Delivery, DeliveryState


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Moment = Annotated[datetime, PlainSerializer(_iso, when_used="json")]


class Document(BaseModel):
    """The base of everything the API answers with."""

    model_config = ConfigDict(frozen=True)


class TokenDocument(Document):
    """A token and its natural log-probability; -9999.0 stands for a probability of zero."""

    token: str
    logprob: float


class LogprobDocument(TokenDocument):
    """A token of the answer, and the five likeliest at its place."""

    top: list[TokenDocument]


class OutputDocument(Document):
    """What the model wrote; ``text`` is null where only a GET has it: see ``truncated``.

    ``logprobs`` are in the answer to a GET of the job alone, where they were asked for.
    """

    text: str | None
    finish_reason: Literal["stop", "length", "cancelled", "deadline"]
    truncated: bool = False
    logprobs: list[LogprobDocument] | None = None


class UsageDocument(Document):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class PriceDocument(Document):
    """The price at submit, in micro-USD per million tokens."""

    input_micros_per_million_tokens: int
    output_micros_per_million_tokens: int


class ChargeDocument(Document):
    """The money of the job, in micro-USD."""

    state: Literal["held", "charged", "released"]
    held_micros: int
    charged_micros: int
    currency: str
    price: PriceDocument


class AttemptDocument(Document):
    """One worker's try."""

    number: int
    worker: str
    started: Moment
    ended: Moment | None
    outcome: Literal[
        "running", "succeeded", "failed", "cancelled", "expired", "lost", "handed_back"
    ]


Reason = Literal["in_queue", "no_worker", "model_loading", "worker_restarting", "model_failed"]


class WaitingDocument(Document):
    """Why a queued job has not started, how many are before it, and in about how many seconds it
    will start, by what its workers did of late; null where nothing is known.
    """

    reason: Reason
    position: int
    eta_seconds: int | None


class ErrorDocument(Document):
    """Why a job failed."""

    code: str
    message: str


class WebhookDocument(Document):
    """How telling of the end goes: the last answer or error, and when it is tried again; an
    abandoned one says why in ``last_error``.
    """

    state: Literal["pending", "delivered", "abandoned"]
    attempts: int
    last_status: int | None
    last_error: str | None
    next_attempt: Moment | None


class UrlsDocument(Document):
    """Where to read the job, to cancel it, and to read it as it grows."""

    get: str
    cancel: str
    stream: str


class JobDocument(Document):
    """One job."""

    id: UUID
    kind: Literal["generate", "complete", "chat"]
    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
    model: str
    version: str
    created: Moment
    started: Moment | None
    finished: Moment | None
    deadline: Moment
    priority: int
    metadata: dict[str, str]
    webhook_url: str | None
    conversation_id: str | None
    batch_id: UUID | None
    webhook: WebhookDocument | None
    output: OutputDocument | None
    usage: UsageDocument | None
    charge: ChargeDocument
    attempts: list[AttemptDocument]
    waiting: WaitingDocument | None
    error: ErrorDocument | None
    urls: UrlsDocument


class EventDocument(Document):
    """What a webhook sends when a job has ended."""

    type: str
    timestamp: Moment
    data: JobDocument


def render(
    job: Job,
    charge: Charge,
    *,
    base_url: str,
    attempts: list[Attempt],
    output: Output | None = None,
    waiting: WaitingDocument | None = None,
    delivery: Delivery | None = None,
) -> JobDocument:
    """Put a job's rows together."""
    url = f"{base_url}/api/v1/jobs/{job.id}"
    return JobDocument(
        id=job.id,
        kind=job.kind,
        status=job.status,
        model=job.model,
        version=job.version,
        created=job.created_at,
        started=job.started_at,
        finished=job.finished_at,
        deadline=job.deadline_at,
        priority=job.priority,
        metadata=job.labels,
        webhook_url=job.webhook_url,
        conversation_id=job.conversation,
        batch_id=job.set_id,
        webhook=_webhook(delivery),
        output=_output(job, output),
        usage=_usage(job),
        charge=_charge(charge),
        attempts=[_attempt(each) for each in attempts],
        waiting=waiting,
        error=_error(job),
        urls=UrlsDocument(get=url, cancel=f"{url}/cancel", stream=f"{url}/events"),
    )


def _output(job: Job, output: Output | None) -> OutputDocument | None:
    if job.finish_reason is None:
        return None
    text = output.text if output else None
    return OutputDocument(
        text=text,
        finish_reason=job.finish_reason,
        truncated=text is None and "deleted" not in job.parameters,
        logprobs=output.logprobs if output else None,
    )


def _usage(job: Job) -> UsageDocument | None:
    if job.prompt_tokens is None or job.completion_tokens is None:
        return None
    return UsageDocument(
        prompt_tokens=job.prompt_tokens,
        completion_tokens=job.completion_tokens,
        total_tokens=job.prompt_tokens + job.completion_tokens,
    )


def _charge(charge: Charge) -> ChargeDocument:
    return ChargeDocument(
        state=charge.state,
        held_micros=charge.held_micros,
        charged_micros=charge.charged_micros,
        currency=charge.currency,
        price=PriceDocument(
            input_micros_per_million_tokens=charge.input_price_micros,
            output_micros_per_million_tokens=charge.output_price_micros,
        ),
    )


def _attempt(attempt: Attempt) -> AttemptDocument:
    return AttemptDocument(
        number=attempt.number,
        worker=attempt.worker,
        started=attempt.started_at,
        ended=attempt.ended_at,
        outcome=attempt.outcome,
    )


def _webhook(delivery: Delivery | None) -> WebhookDocument | None:
    if delivery is None:
        return None
    pending = delivery.state == DeliveryState.PENDING
    return WebhookDocument(
        state=delivery.state,
        attempts=delivery.attempts,
        last_status=delivery.last_status,
        last_error=delivery.last_error,
        next_attempt=delivery.next_attempt_at if pending else None,
    )


def _error(job: Job) -> ErrorDocument | None:
    if job.error_code is None:
        return None
    return ErrorDocument(code=job.error_code, message=job.error_message or "")
