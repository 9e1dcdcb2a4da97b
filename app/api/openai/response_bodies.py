"""What ``responses.create`` and ``responses.retrieve`` send; as in ``bodies``."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.jobs.bodies import LabelName, LabelValue, NonEmpty, Text
from app.openai.bodies import (
    CacheKey,
    Given,
    JSONObjectFormatBody,
    Kept,
    NamedSchemaBody,
    NoChoice,
    NoList,
    NotSupported,
    SpokenBody,
    TextFormatBody,
    only,
)


class InputItemBody(SpokenBody):
    """One turn; ``id`` and ``status`` are those of an answer that is sent back."""

    type: Literal["message"] = "message"
    id: Text | None = None
    status: Text | None = None
    phase: Text | None = None


class SchemaFormatBody(NamedSchemaBody, Given):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    name: Annotated[Text, Field(max_length=64)]


class TextBody(Given):
    """The form of the answer."""

    format: Annotated[
        TextFormatBody | JSONObjectFormatBody | SchemaFormatBody | None,
        Field(discriminator="type"),
    ] = None
    verbosity: Annotated[Any, BeforeValidator(only("medium"))] = None


class ResponseStreamOptionsBody(Given):
    """How a stream is told."""

    include_obfuscation: Annotated[Any, BeforeValidator(only(False))] = False


class ResponseBody(Given):
    """POST /v1/responses."""

    model: NonEmpty
    input: NonEmpty | Annotated[list[InputItemBody], Field(min_length=1, max_length=1000)]
    instructions: NonEmpty | None = None
    previous_response_id: Text | None = None
    background: bool = False
    stream: bool = False
    stream_options: ResponseStreamOptionsBody | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    text: TextBody = TextBody()
    metadata: dict[LabelName, LabelValue] = Field({}, max_length=16)
    include: list[Literal["message.output_text.logprobs"]] = Field([])
    top_logprobs: int = Field(0, ge=0, le=5)
    user: Kept = None
    safety_identifier: Kept = None
    prompt_cache_key: CacheKey = None
    service_tier: Literal["auto", "default"] = "auto"
    store: Annotated[Any, BeforeValidator(only(True))] = True
    truncation: Annotated[Any, BeforeValidator(only("disabled"))] = "disabled"
    parallel_tool_calls: bool | None = None
    tools: NoList = None
    tool_choice: NoChoice = None
    reasoning: NotSupported = None
    conversation: NotSupported = None
    prompt: NotSupported = None
    max_tool_calls: NotSupported = None
    moderation: NotSupported = None
    context_management: NotSupported = None
    background_options: NotSupported = None
    access_programs: NotSupported = None
    image: NotSupported = None
    prompt_cache_options: NotSupported = None
    prompt_cache_retention: NotSupported = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer has log-probabilities."""
        return bool(self.include or self.top_logprobs)

    def turns(self) -> list[dict[str, str]]:
        """The input as messages."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        return [each.as_message() for each in self.input]


class ResponseQuery(BaseModel):
    """How to read a response."""

    model_config = ConfigDict(extra="forbid")

    stream: bool = False
    starting_after: int = Field(
        -1, ge=-1, lt=2**53, description="The sequence_number of the last event that you have."
    )
    include_obfuscation: Literal["false"] | None = None
