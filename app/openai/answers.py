"""What OpenAI's clients are given, and how a job becomes that."""

from collections.abc import Sequence
from typing import Literal

from app.jobs.document import Document, JobDocument
from app.openai.logprobs import ChatLogprobs, CompletionLogprobs, of_chat, of_completion

Reason = Literal["stop", "length"]


class UsageDetail(Document):
    """Tokens read and written, of all choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatMessage(Document):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Document):
    """One answer."""

    index: int
    message: ChatMessage
    finish_reason: Reason
    logprobs: ChatLogprobs | None


class ChatCompletion(Document):
    """The answer to a chat; the id is that of the job, or of the first of several."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageDetail


class CompletionChoice(Document):
    """One answer."""

    index: int
    text: str
    finish_reason: Reason
    logprobs: CompletionLogprobs | None


class Completion(Document):
    """How a text goes on."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageDetail


class ModelEntry(Document):
    """A served model; ``created`` is not known and always 0."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["gptqueue"] = "gptqueue"
    context_length: int


class ModelList(Document):
    """Every served model."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


def chat_completion(jobs: Sequence[JobDocument], *, top: int) -> ChatCompletion:
    """The answer that these jobs, which succeeded, make; with ``top`` likeliest tokens."""
    choices = [
        ChatChoice(
            index=index,
            message=ChatMessage(content=text_of(job)),
            finish_reason=reason_of(job),
            logprobs=of_chat(job, top),
        )
        for index, job in enumerate(jobs)
    ]
    return ChatCompletion(
        id=chat_id(jobs[0]),
        created=created(jobs[0]),
        model=jobs[0].model,
        choices=choices,
        usage=usage(jobs),
    )


def completion(jobs: Sequence[JobDocument], *, top: int) -> Completion:
    """The same for a text that goes on."""
    choices = [
        CompletionChoice(
            index=index,
            text=text_of(job),
            finish_reason=reason_of(job),
            logprobs=of_completion(job, top),
        )
        for index, job in enumerate(jobs)
    ]
    return Completion(
        id=completion_id(jobs[0]),
        created=created(jobs[0]),
        model=jobs[0].model,
        choices=choices,
        usage=usage(jobs),
    )


def chat_id(job: JobDocument) -> str:
    """As OpenAI's ids look; the rest is the job's."""
    return f"chatcmpl-{job.id.hex}"


def completion_id(job: JobDocument) -> str:
    """As OpenAI's ids look; the rest is the job's."""
    return f"cmpl-{job.id.hex}"


def created(job: JobDocument) -> int:
    """Seconds since 1970."""
    return int(job.created.timestamp())


def text_of(job: JobDocument) -> str:
    """What it wrote."""
    assert job.output is not None
    return job.output.text or ""


def reason_of(job: JobDocument) -> Reason:
    """Why it ended; a job that succeeded ended for one of these."""
    assert job.output is not None
    return "length" if job.output.finish_reason == "length" else "stop"


def usage(jobs: Sequence[JobDocument]) -> UsageDetail:
    """What these jobs used."""
    used = [job.usage for job in jobs if job.usage is not None]
    return UsageDetail(
        prompt_tokens=sum(each.prompt_tokens for each in used),
        completion_tokens=sum(each.completion_tokens for each in used),
        total_tokens=sum(each.total_tokens for each in used),
    )
