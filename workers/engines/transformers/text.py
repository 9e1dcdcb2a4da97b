"""Token ids become text as they arrive; stop strings end it, also across token borders."""

from collections.abc import Sequence
from typing import Any

# What a decoder shows for bytes that are not, or not yet, a whole character.
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
# A character is at most four bytes, so at most four byte tokens: longer waiting is for nothing.
MOST_BYTES = 4
# How many tokens of the prompt tell the decoder whether the first word is preceded by a space.
CONTEXT = 4


class Text:
    """The text of one generation, grown token by token."""

    def __init__(self, *, tokenizer: Any, prompt: Sequence[int], stop: tuple[str, ...]) -> None:
        """``prompt`` is the ids that the text goes on from, empty where it begins afresh; ``stop``
        the strings that end it.
        """
        self._tokenizer = tokenizer
        self._tokens = list(prompt[-CONTEXT:])
        self._stop = stop
        self._reach = max(map(len, stop), default=1) - 1
        self._window = 0
        self._read = len(self._tokens)
        self._text = ""
        self.stopped = False

    def push(self, token: int) -> None:
        """Add a token; ``stopped`` is true afterwards when a stop string has come up."""
        self._tokens.append(token)
        if self._stop:
            self._flush(last=False)

    def finish(self) -> str:
        """The whole text: up to the first stop string, without a character cut in half."""
        if not self.stopped:
            self._flush(last=True)
        return self._text if self.stopped else self._text.rstrip(INCOMPLETE)

    def _flush(self, *, last: bool) -> None:
        fresh = self._fresh()
        waiting = len(self._tokens) - self._read
        if fresh.endswith(INCOMPLETE) and waiting < MOST_BYTES and not last:
            return
        self._window, self._read = self._read, len(self._tokens)
        self._add(fresh)

    def _fresh(self) -> str:
        # A word's leading space depends on the token before it, so a token is decoded behind the
        # one before it, and what that one alone gives is taken off.
        before = self._decode(self._tokens[self._window : self._read])
        return self._decode(self._tokens[self._window :])[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _add(self, fresh: str) -> None:
        start = max(len(self._text) - self._reach, 0)
        self._text += fresh
        found = [at for stop in self._stop if (at := self._text.find(stop, start)) >= 0]
        if found:
            self.stopped = True
            self._text = self._text[: min(found)]
