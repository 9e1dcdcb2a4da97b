"""What clients send: the models that validate request bodies, and the OpenAPI document."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _no_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("contains the character NUL, which cannot be stored")
    return text


def _small(labels: dict[str, str]) -> dict[str, str]:
    if len(json.dumps(labels, ensure_ascii=False).encode()) > _MOST_METADATA_BYTES:
        raise ValueError(f"has more than {_MOST_METADATA_BYTES} bytes as JSON")
    return labels


def _writable(schema: dict[str, Any]) -> dict[str, Any]:
    if len(_as_text(schema).encode()) > _MOST_SCHEMA_BYTES:
        raise ValueError(f"has more than {_MOST_SCHEMA_BYTES} bytes as JSON")
    return schema


def _as_text(schema: dict[str, Any]) -> str:
    """Text and not JSONB, which would forget the order of the properties: answers follow it."""
    try:
        return json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise ValueError("contains a number that JSON cannot write") from None


_MOST_METADATA_BYTES = 10_000  # a webhook repeats it, and has less than 20 kB
_MOST_SCHEMA_BYTES = 32_000

Text = Annotated[str, AfterValidator(_no_nul)]
NonEmpty = Annotated[Text, Field(min_length=1)]
StopString = Annotated[NonEmpty, Field(max_length=64)]
LabelName = Annotated[NonEmpty, Field(max_length=64)]
# It stands in an address.
ConversationName = Annotated[str, Field(pattern=r"^\w[\w .:@+-]{0,63}$")]
LabelValue = Annotated[Text, Field(max_length=512)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]


class Body(BaseModel):
    """A request body: no unknown fields, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class JSONSchemaBody(Body):
    """The schema that an answer follows; ``name`` is for the reader."""

    name: Annotated[Text, Field(max_length=64)] | None = None
    # "schema" itself is a method of pydantic's.
    schema_: Annotated[dict[str, Any], AfterValidator(_writable)] = Field(
        alias="schema", description="A JSON Schema, an object of 32 kB at most."
    )


class ResponseFormatBody(Body):
    """What form an answer has."""

    type: Literal["json_schema"]
    json_schema: JSONSchemaBody


class JobBody(Body):
    """What every kind of job can say."""

    model: NonEmpty = Field(description="One of GET /api/v1/models.")
    max_tokens: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Completion tokens at most; default: the model's."
    )
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    top_k: int = Field(0, ge=0, le=1000, description="0: all tokens.")
    min_p: float = Field(
        0.0,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="Drops tokens less likely than this share of the likeliest; 0: none.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="The same seed gives the same text, up to rounding.",
    )
    stop: Annotated[list[StopString], Field(min_length=1, max_length=4)] | None = Field(
        None, description="1 to 4 strings; the text ends before the first that appears."
    )
    stop_token_ids: Annotated[list[TokenId], Field(min_length=1, max_length=16)] | None = Field(
        None, description="1 to 16 tokens that end the text as its end-of-text token does."
    )
    repetition_penalty: float = Field(
        1.0, ge=0.1, le=2, allow_inf_nan=False, description="Above 1: fewer repetitions."
    )
    presence_penalty: Penalty = Field(
        0.0, description="Taken off the logits of tokens that the answer has; below 0: added."
    )
    frequency_penalty: Penalty = Field(
        0.0, description="The same, once for each time that the answer has the token."
    )
    logprobs: bool = Field(
        False, description="Return each token's log-probability and the five likeliest."
    )
    response_format: ResponseFormatBody | None = Field(
        None, description="A JSON schema that the answer must follow, where the engine can."
    )
    metadata: Annotated[dict[LabelName, LabelValue], AfterValidator(_small)] = Field(
        {},
        max_length=16,
        description="Up to 16 strings of yours (10 kB at most), returned with the job.",
    )
    webhook_url: NonEmpty | None = Field(
        None, max_length=2048, description="Told when the job has ended."
    )
    priority: int = Field(
        0, ge=-100, le=100, description="Higher ones of the same model start first."
    )
    deadline_seconds: int | None = Field(
        None, ge=1, le=7 * 86_400, description="From submit; a job past it is expired."
    )

    def parameters(self) -> dict[str, Any]:
        """What the engine needs to know, as it is stored with the job."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "seed": self.seed,
            "stop": self.stop or [],
            "stop_token_ids": self.stop_token_ids or [],
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logprobs": self.logprobs,
            "json_schema": self._json_schema(),
        }

    def _json_schema(self) -> str | None:
        if self.response_format is None:
            return None
        return _as_text(self.response_format.json_schema.schema_)


class PromptBody(JobBody):
    """A single prompt: ``generate`` applies the chat template to it, ``complete`` does not."""

    prompt: NonEmpty


class MessageBody(Body):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: Text


class ChatBody(JobBody):
    """A chat: the model answers the last message."""

    messages: list[MessageBody] = Field(min_length=1, max_length=1000)
    conversation_id: ConversationName | None = Field(
        None, description="A name of yours: the turns before are put in front, as far as they fit."
    )


class QuoteBody(JobBody):
    """A job as it would be submitted: ``prompt`` or ``messages``."""

    prompt: NonEmpty | None = None
    messages: Annotated[list[MessageBody], Field(min_length=1, max_length=1000)] | None = None
    kind: Literal["generate", "complete", "chat"] | None = Field(
        None, description='Default: "chat" with messages, "generate" with a prompt.'
    )

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages, one of them")
        if self.kind is not None and (self.kind == "chat") != (self.messages is not None):
            raise ValueError("chat has messages, generate and complete have a prompt")
        return self

    def as_job(self) -> tuple[str, "PromptBody | ChatBody"]:
        """Its kind, and the body that would be submitted."""
        fields = {name: getattr(self, name) for name in JobBody.model_fields}
        if self.messages is not None:
            return "chat", ChatBody(**fields, messages=self.messages)
        assert self.prompt is not None
        return self.kind or "generate", PromptBody(**fields, prompt=self.prompt)


class JobBatchBody(Body):
    """Jobs that are submitted together."""

    jobs: list[QuoteBody] = Field(min_length=1, max_length=1000, description="All or none.")
    webhook_url: NonEmpty | None = Field(
        None, max_length=2048, description="Told when all jobs have ended."
    )
    metadata: Annotated[dict[LabelName, LabelValue], AfterValidator(_small)] = Field(
        {}, max_length=16, description="As of a job."
    )
