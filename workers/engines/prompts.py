"""A request's prompt becomes token ids, and is refused where it cannot."""

import threading
from typing import Any

from jinja2 import TemplateError

from app.errors import ContextLengthExceeded, EngineFailed, InvalidRequest
from workers.engines.base import Request


class Prompts:
    """Encodes prompts for one model."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # A fast tokenizer takes one thread at a time.
        self._lock = threading.Lock()

    def encode(self, request: Request, context_length: int) -> tuple[list[int], int]:
        """The prompt's ids, at least one, and the most tokens to generate; ``context_length`` is in
        tokens, prompt and completion together.

        Raises ContextLengthExceeded when not one token fits behind the prompt, InvalidRequest when
        the chat template refuses it, EngineFailed when the tokenizer cannot take it.
        """
        ids = self._ids(request)
        room = context_length - len(ids)
        if room < 1:
            raise ContextLengthExceeded(
                f"The prompt has {len(ids)} tokens; the model's context is "
                f"{context_length} tokens, prompt and completion together.",
                prompt_tokens=len(ids),
                context_length=context_length,
            )
        return ids, min(request.max_tokens, room)

    def _ids(self, request: Request) -> list[int]:
        try:
            with self._lock:
                ids = self._verbatim(request) if request.messages is None else self._chat(request)
        except TemplateError as error:
            message = f"The model's chat template refuses these messages: {error}"
            raise InvalidRequest(message) from error
        except (TypeError, ValueError) as error:
            raise EngineFailed("The model's tokenizer cannot read this prompt.") from error
        if not ids:
            raise EngineFailed("The prompt has no tokens.")
        return ids

    def _verbatim(self, request: Request) -> list[int]:
        ids: list[int] = self._tokenizer(request.prompt or "").input_ids
        return ids

    def _chat(self, request: Request) -> list[int]:
        if not self._tokenizer.chat_template:
            raise InvalidRequest("This model has no chat template: use /api/v1/complete.")
        messages = [{"role": one.role, "content": one.content} for one in request.messages or ()]
        ids: list[int] = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        return ids
