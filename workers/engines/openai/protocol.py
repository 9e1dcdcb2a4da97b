"""What is sent to an OpenAI-compatible server, and what its answer means.

The fields are those of OpenAI's API reference (Chat Completions, Completions), and those that
vLLM, SGLang and llama.cpp added to it: top_k, min_p, repetition_penalty (there repeat_penalty),
stop_token_ids, continuous_usage_stats (llama.cpp: timings_per_token). All are always sent, because
each server has its own defaults; a server ignores what it does not know.
"""

import re
from http import HTTPStatus
from typing import Any

from app.errors import ContextLengthExceeded, GPTQueueError, InvalidRequest
from workers.engines.base import FinishReason, Generation, Request, Sampling, TokenLogprob
from workers.engines.openai.link import ServerAway, ServerBroke

TOP = 5  # likeliest tokens that come with each chosen one
REFUSALS = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}
BROKEN = {"abort", "error"}  # finish reasons of a server that gave up
_CONTEXT = re.compile(r"context.{0,10}(length|size|window)", re.IGNORECASE)


def endpoint(request: Request) -> str:
    """Where the request goes."""
    return "completions" if request.messages is None else "chat/completions"


def body(request: Request, model: str) -> dict[str, Any]:
    """The request as JSON; ``model`` is the server's name for it."""
    return {
        "model": model,
        "max_tokens": request.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "timings_per_token": True,
        **_content(request),
        **_sampling(request.sampling),
    }


def _content(request: Request) -> dict[str, Any]:
    logprobs = request.sampling.logprobs
    if request.messages is None:
        return {"prompt": request.prompt, **({"logprobs": TOP} if logprobs else {})}
    messages = [{"role": each.role, "content": each.content} for each in request.messages]
    return {
        "messages": messages,
        **({"logprobs": True, "top_logprobs": TOP} if logprobs else {}),
    }


def _sampling(sampling: Sampling) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "repeat_penalty": sampling.repetition_penalty,
    }
    if sampling.seed is not None:
        fields["seed"] = sampling.seed
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    if sampling.stop_token_ids:
        fields["stop_token_ids"] = list(sampling.stop_token_ids)
    return fields


class Answer:
    """What has come of an answer so far.

    Tokens are counted by the server's ``usage``. As long as it has told none, each piece of text
    counts as a token, and the prompt is not counted: never more than was used.
    """

    def __init__(self) -> None:
        self.finish: FinishReason | None = None
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._told = False

    def take(self, event: dict[str, Any]) -> str:
        """Add an event of the stream; returns the text in it.

        Raises ServerBroke, ServerAway, ContextLengthExceeded or InvalidRequest.
        """
        if error := event.get("error"):
            raise trouble(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": error})
        try:
            text = "".join(self._choice(choice) for choice in event.get("choices") or ())
            self._count(event.get("usage") or _timed(event.get("timings")), bool(text))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ServerBroke("The server's answer cannot be understood.") from error
        self._text.append(text)
        return text

    def generation(self, reason: FinishReason, *, logprobs: bool) -> Generation:
        """What became of the request."""
        return Generation(
            text="".join(self._text),
            finish_reason=reason,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            logprobs=tuple(self._logprobs) if logprobs else None,
        )

    def _choice(self, choice: dict[str, Any]) -> str:
        if reason := choice.get("finish_reason"):
            if reason in BROKEN:
                raise ServerBroke("The server gave the answer up.")
            self.finish = FinishReason.LENGTH if reason == "length" else FinishReason.STOP
        if choice.get("logprobs"):
            self._logprobs += _logprobs(choice["logprobs"])
        text = (choice.get("delta") or {}).get("content") or choice.get("text") or ""
        if not isinstance(text, str):
            raise TypeError(type(text))
        return text

    def _count(self, usage: dict[str, Any] | None, some_text: bool) -> None:
        if usage:
            self._told = True
            self.prompt_tokens = int(usage["prompt_tokens"])
            self.completion_tokens = int(usage.get("completion_tokens") or 0)
        elif not self._told:
            self.completion_tokens += some_text


def _timed(timings: dict[str, Any] | None) -> dict[str, Any] | None:
    """The usage in llama.cpp's timings: the prompt's tokens are those computed and those cached."""
    if not timings:
        return None
    prompt = timings["prompt_n"] + timings.get("cache_n", 0)
    return {"prompt_tokens": prompt, "completion_tokens": timings["predicted_n"]}


def _logprobs(said: dict[str, Any]) -> list[TokenLogprob]:
    """Of the pieces of a chat (and of llama.cpp's completions), or in the lists of a completion."""
    if said.get("content"):
        return [
            TokenLogprob(
                token=each["token"],
                logprob=float(each["logprob"]),
                top=tuple((top["token"], float(top["logprob"])) for top in each["top_logprobs"]),
            )
            for each in said["content"]
        ]
    rows = zip(
        said.get("tokens") or (),
        said.get("token_logprobs") or (),
        said.get("top_logprobs") or (),
        strict=True,
    )
    return [
        TokenLogprob(token, float(logprob), tuple(sorted(top.items(), key=_likeliest)[:TOP]))
        for token, logprob, top in rows
    ]


def _likeliest(pair: tuple[str, float]) -> float:
    return -pair[1]


def trouble(status: int, said: dict[str, Any]) -> ServerAway | ServerBroke | GPTQueueError:
    """What an answer that is no success means, by its status and its JSON.

    Only what the server says about this very request is the client's to put right. A key that it
    does not take, or a model that it has no more, are for the operator, and may pass.
    """
    error = said.get("error", said)
    error = error if isinstance(error, dict) else {"message": error}
    message = str(error.get("message") or said.get("message") or f"status {int(status)}")[:500]
    code = error.get("code")
    status = code if isinstance(code, int) and code >= HTTPStatus.BAD_REQUEST else status
    if status in REFUSALS:
        if _CONTEXT.search(f"{code} {error.get('type')} {message}".replace("_", " ")):
            return ContextLengthExceeded(f"The model's server says: {message}")
        return InvalidRequest(f"The model's server refuses this: {message}")
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return ServerBroke(f"The server failed: {message}")
    return ServerAway(f"The server answers {int(status)}: {message}")
