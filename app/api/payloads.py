"""What lists are asked, and what they and operators are answered; also the OpenAPI document."""

from datetime import date
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.jobs.bodies import Body, NonEmpty, Text
from app.jobs.document import Document, JobDocument, Moment, PriceDocument, WaitingDocument
from app.jobs.sets import SetDocument


class PageQuery(BaseModel):
    """Which part of a list to read."""

    model_config = ConfigDict(extra="forbid")

    after: UUID | None = Field(None, description='"next" of the page before.')
    limit: int = Field(20, ge=1, le=100)


class JobsQuery(PageQuery):
    """Which jobs to list, newest first."""

    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"] | None = (
        None
    )
    model: Text | None = None
    batch: UUID | None = None


class JobsDocument(Document):
    """A page of jobs; pass ``next`` as ``after`` for the following one."""

    data: list[JobDocument]
    has_more: bool
    next: UUID | None


Day = Annotated[date, Field(ge=date(2000, 1, 1), le=date(2999, 12, 31))]


class UsageQuery(BaseModel):
    """Which days (UTC), both included; the last thirty by default."""

    model_config = ConfigDict(extra="forbid")

    since: Day | None = Field(None, alias="from")
    until: Day | None = Field(None, alias="to")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.since and self.until and self.since > self.until:
            raise ValueError("from is after to")
        return self


class UsageDayDocument(Document):
    """One model on one day: jobs that ended, and what they used and cost."""

    date: date
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    charged_micros: int


class UsageTotalDocument(Document):
    """The sum of the days."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    charged_micros: int


class BalanceDocument(Document):
    """The account's credit now: what new jobs may hold, and what running ones hold."""

    available_micros: int
    held_micros: int


class UsageReport(Document):
    """What an account used, by day and model, and its balance."""

    currency: str
    data: list[UsageDayDocument]
    total: UsageTotalDocument
    balance: BalanceDocument


class ModelDocument(Document):
    """A served model; prices are micro-USD per million tokens."""

    name: str
    description: str
    version: str
    context_length: int
    default_max_tokens: int
    input_micros_per_million_tokens: int
    output_micros_per_million_tokens: int


class ModelsDocument(Document):
    """Every model that jobs can be submitted for."""

    data: list[ModelDocument]


class ConversationsQuery(BaseModel):
    """Which conversations to list, those begun last first."""

    model_config = ConfigDict(extra="forbid")

    after: Text | None = Field(None, description='"next" of the page before.')
    limit: int = Field(20, ge=1, le=100)


class ConversationDocument(Document):
    """A conversation; ``id`` is your name for it."""

    id: str
    created: Moment
    last_active: Moment
    jobs: int


class ConversationsDocument(Document):
    """A page of conversations."""

    data: list[ConversationDocument]
    has_more: bool
    next: str | None


class TurnMessageDocument(Document):
    """What was said."""

    role: Literal["system", "user", "assistant"]
    content: str


class TurnDocument(Document):
    """What was said and answered in one job; ``answer`` is null as long as there is none."""

    job_id: UUID
    status: str
    created: Moment
    messages: list[TurnMessageDocument]
    answer: str | None


class TurnsDocument(Document):
    """A page of turns."""

    data: list[TurnDocument]
    has_more: bool
    next: UUID | None


class BatchesDocument(Document):
    """A page of batches of jobs."""

    data: list[SetDocument]
    has_more: bool
    next: UUID | None


class QuoteDocument(Document):
    """What a job would cost and wait for. ``highest_micros`` would be held at submit. Where the API
    cannot count exactly, ``prompt_tokens`` is a bound and ``lowest_micros`` is without the prompt.
    ``servable``: a live worker has this version of the model ready now.
    """

    model: str
    version: str
    prompt_tokens: int
    prompt_tokens_exact: bool
    max_tokens: int
    lowest_micros: int
    highest_micros: int
    currency: str
    price: PriceDocument
    available_micros: int
    covered: bool
    servable: bool
    waiting: WaitingDocument


class SecretDocument(Document):
    """A secret that signs webhooks."""

    key: str


class DisabledEndpointDocument(Document):
    """A URL that nothing is sent to any more: ``gone`` answered 410, ``failing`` had no success for
    five days.
    """

    url: str
    reason: Literal["gone", "failing"]
    disabled: Moment


class DisabledEndpointsDocument(Document):
    """The disabled endpoints of the account."""

    data: list[DisabledEndpointDocument]


class HealthDocument(Document):
    """The process answers."""

    status: Literal["alive"] = "alive"


class DependencyDocument(Document):
    """Whether something the API needs answers."""

    ok: bool


class EngineDocument(Document):
    """A worker's engine: which one really runs (``engine``, as in the catalog; null from a worker
    of an older version), how often its process was started again, how full its KV memory is, and
    why it cannot work now, if it cannot.
    """

    worker: str
    engine: str | None
    restarts: int
    kv_used_tokens: int
    kv_capacity_tokens: int
    problem: str | None


class ModelStatusDocument(Document):
    """One model: messages waiting, live workers by state, why some cannot work, and the engines of
    the live ones.
    """

    ready: bool
    queue_depth: int | None
    workers: dict[str, int]
    errors: list[str]
    engines: list[EngineDocument]


class StatusDocument(Document):
    """Whether jobs can be accepted (``ready``), and what serves them."""

    ready: bool
    database: DependencyDocument
    broker: DependencyDocument
    models: dict[str, ModelStatusDocument]


class EndpointBody(Body):
    """Which endpoint is meant."""

    url: NonEmpty = Field(max_length=2048, description="A webhook_url, letter by letter.")
