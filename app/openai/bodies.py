"""What OpenAI's clients send.

Every parameter of OpenAI's API reference is here. What we do not do is taken where its value asks
for nothing, and refused by name otherwise; what nobody knows is refused as well. ``top_k``,
``min_p``, ``repetition_penalty``, ``stop_token_ids``, ``priority``, ``deadline_seconds`` and
``webhook_url`` are ours: the SDK sends them as ``extra_body``.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from app.jobs.bodies import (
    Body,
    JSONSchemaBody,
    LabelName,
    LabelValue,
    NonEmpty,
    Penalty,
    StopString,
    Text,
    TokenId,
)


def only(*harmless: Any) -> Callable[[Any], Any]:
    """A validator that takes what asks for nothing, and refuses the rest as not supported."""

    def check(value: Any) -> Any:
        # By type as well: 1 is not True.
        if any(type(value) is type(each) and value == each for each in harmless):
            return value
        raise ValueError("this parameter is not supported")

    return check


def _given(fields: Any) -> Any:
    """Without what is null, which OpenAI's clients send for "not given"."""
    if isinstance(fields, dict):
        return {name: value for name, value in fields.items() if value is not None}
    return fields


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


NotSupported = Annotated[Any, BeforeValidator(only())]
NoList = Annotated[Any, BeforeValidator(only([]))]
NoChoice = Annotated[Any, BeforeValidator(only("none", "auto"))]
Kept = Annotated[
    Annotated[Text, Field(max_length=512)] | None,
    Field(description="Kept with the job, in its metadata."),
]
CacheKey = Annotated[
    Text | None, Field(description="Equal beginnings of prompts are always shared.")
]
Stop = Annotated[list[StopString], BeforeValidator(_listed), Field(min_length=1, max_length=4)]


class Given(Body):
    """A part of a body in which null stands for nothing."""

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, fields: Any) -> Any:
        return _given(fields)


class TextPartBody(Given):
    """A piece of a message; other kinds than text are not supported."""

    type: Literal["text", "input_text", "output_text"]
    text: Text


class SpokenBody(Given):
    """What was said in one turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPartBody]

    def as_message(self) -> dict[str, str]:
        """As it is stored, and put into the chat template."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return {"role": role, "content": self.content}
        return {"role": role, "content": "".join(part.text for part in self.content)}


class ChatMessageBody(SpokenBody):
    """One turn of a chat."""

    content: Text | list[TextPartBody] = ""
    name: NotSupported = None
    refusal: NotSupported = None
    audio: NotSupported = None
    function_call: NotSupported = None
    tool_calls: NoList = None
    annotations: NoList = None


class TextFormatBody(Given):
    """Free text."""

    type: Literal["text"]


class JSONObjectFormatBody(Given):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchemaBody(JSONSchemaBody):
    """A schema; ``strict`` or not, the answer follows it."""

    description: Text | None = None
    strict: bool | None = None


class JSONSchemaFormatBody(Given):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchemaBody


Format = Annotated[
    TextFormatBody | JSONObjectFormatBody | JSONSchemaFormatBody, Field(discriminator="type")
]


class StreamOptionsBody(Given):
    """How a stream is told."""

    include_usage: bool = False
    include_obfuscation: Annotated[Any, BeforeValidator(only(False))] = False


class CallBody(Given):
    """What both kinds of call have."""

    model: NonEmpty
    stream: bool = False
    stream_options: StreamOptionsBody | None = None
    n: int = Field(1, ge=1, le=4, description="So many choices, each a job of its own.")
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    user: Kept = None
    logit_bias: Annotated[Any, BeforeValidator(only({}))] = None

    top_k: int = Field(0, ge=0, le=1000)
    min_p: float = Field(0.0, ge=0, lt=1, allow_inf_nan=False)
    repetition_penalty: float = Field(1.0, ge=0.1, le=2, allow_inf_nan=False)
    stop_token_ids: Annotated[list[TokenId], Field(min_length=1, max_length=16)] | None = None
    priority: int = Field(0, ge=-100, le=100)
    deadline_seconds: int | None = Field(None, ge=1, le=7 * 86_400)
    webhook_url: NonEmpty | None = Field(None, max_length=2048)

    @field_validator("stream_options")
    @classmethod
    def _options_of_a_stream(cls, given: Any, info: ValidationInfo) -> Any:
        if given is not None and not info.data.get("stream"):
            raise ValueError("this is for streams: set stream to true")
        return given

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the tokens used."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatCompletionBody(CallBody):
    """POST /v1/chat/completions."""

    messages: list[ChatMessageBody] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=5)
    response_format: Format | None = None
    metadata: dict[LabelName, LabelValue] = Field({}, max_length=16)
    safety_identifier: Kept = None
    prompt_cache_key: CacheKey = None
    service_tier: Literal["auto", "default"] = "auto"
    store: Annotated[Any, BeforeValidator(only(False))] = False
    parallel_tool_calls: bool | None = None
    tools: NoList = None
    tool_choice: NoChoice = None
    functions: NoList = None
    function_call: NoChoice = None
    modalities: Annotated[Any, BeforeValidator(only(["text"]))] = None
    verbosity: Annotated[Any, BeforeValidator(only("medium"))] = None
    reasoning_effort: Annotated[Any, BeforeValidator(only("none"))] = None
    audio: NotSupported = None
    prediction: NotSupported = None
    moderation: NotSupported = None
    web_search_options: NotSupported = None
    prompt_cache_options: NotSupported = None
    prompt_cache_retention: NotSupported = None

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_limit(cls, given: int | None, info: ValidationInfo) -> int | None:
        if given is not None and info.data.get("max_tokens") is not None:
            raise ValueError("max_tokens is given as well: give one of them")
        return given

    @field_validator("top_logprobs")
    @classmethod
    def _top_of_logprobs(cls, given: int, info: ValidationInfo) -> int:
        if given and not info.data.get("logprobs"):
            raise ValueError("this needs logprobs: true")
        return given


class CompletionBody(CallBody):
    """POST /v1/completions."""

    prompt: (
        Annotated[NonEmpty, Field()] | Annotated[list[NonEmpty], Field(min_length=1, max_length=1)]
    ) = Field(description="A text, or a list with one.")
    logprobs: int | None = Field(None, ge=0, le=5)
    best_of: Annotated[Any, BeforeValidator(only(1))] = None
    echo: Annotated[Any, BeforeValidator(only(False))] = False
    suffix: Annotated[Any, BeforeValidator(only(""))] = None

    @property
    def text(self) -> str:
        """The one prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]
