"""Token ids become text as they arrive; stop strings end it, also across token borders."""

from collections.abc import Sequence
from typing import Any

# What a decoder shows for bytes that are not, or not yet, a whole character.
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
# A character has at most four bytes, so at most so many tokens are the beginning of one.
BEGINNING = 3
# After so many tokens without the end of a character they are taken for bytes that are no text.
NO_TEXT = 32
# How many tokens of the prompt tell the decoder whether the first word is preceded by a space.
CONTEXT = 4


class Text:
    """The text of one generation, grown by groups of tokens.

    ``stopped`` says that a stop string has come up: what is pushed after it is ignored. ``tokens``
    counts those of the answer: all, or up to the one that completed the stop string.
    """

    def __init__(self, *, tokenizer: Any, prompt: Sequence[int], stop: tuple[str, ...]) -> None:
        """``prompt`` is the ids that the text goes on from, empty where it begins afresh; ``stop``
        the strings that end it.
        """
        self._tokenizer = tokenizer
        self._ids = list(prompt[-CONTEXT:])
        self._stop = stop
        # The ids before ``read`` are in the text. A word's leading space depends on the token
        # before it, so ids are decoded behind those from ``window`` on, whose text is taken off.
        self._window, self._read = 0, len(self._ids)
        self._before = len(self._decode(self._ids))
        self._pieces: list[str] = []
        self._taken = 0
        # Read, but perhaps the beginning of a stop string, or no part of the text if it ends here.
        self._held = ""
        self.stopped = False
        self.tokens = 0

    def push(self, ids: Sequence[int]) -> None:
        """Add tokens, and look for stop strings if there are any."""
        if self.stopped:
            return
        self._ids.extend(ids)
        self.tokens += len(ids)
        if self._stop:
            self._advance()

    def take(self) -> str:
        """The text that is new since the last time, as far as nothing can change it any more."""
        if not self.stopped:
            self._advance()
        fresh = "".join(self._pieces[self._taken :])
        self._taken = len(self._pieces)
        return fresh

    def finish(self) -> str:
        """The whole text: up to the first stop string, without a character cut in half."""
        if not self.stopped:
            self._read_to(len(self._ids), self._fresh(len(self._ids)))
        if not self.stopped:
            self._pieces.append(self._held.rstrip(INCOMPLETE))
            self._held = ""
        return "".join(self._pieces)

    def _advance(self) -> None:
        """Read as many of the new ids as end with a whole character."""
        last = len(self._ids)
        for end in range(last, max(self._read, last - BEGINNING - 1), -1):
            fresh = self._fresh(end)
            if not fresh.endswith(INCOMPLETE):
                self._read_to(end, fresh)
                return
        if last - self._read >= NO_TEXT:
            self._read_to(last, self._fresh(last))

    def _read_to(self, end: int, fresh: str) -> None:
        text = self._held + fresh
        if self._stop_in(text) is not None:
            self._stop_early(end)
            return
        self._window, self._read = self._read, end
        self._before = len(self._decode(self._ids[self._window : end]))
        safe = len(text) - self._unsafe(text)
        self._pieces.append(text[:safe])
        self._held = text[safe:]

    def _stop_early(self, end: int) -> None:
        """End the text before a stop string, and the tokens with the one that completed it."""
        self.stopped = True
        for last in range(self._read + 1, end + 1):
            text = self._held + self._fresh(last)
            place = self._stop_in(text)
            if place is not None:
                self._pieces.append(text[:place])
                self.tokens -= len(self._ids) - last
                return

    def _stop_in(self, text: str) -> int | None:
        return min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=None)

    def _unsafe(self, text: str) -> int:
        """How many characters at the end may be no part of the text after all."""
        broken = len(text) - len(text.rstrip(INCOMPLETE))
        begun = (
            size for stop in self._stop for size in range(len(stop)) if text.endswith(stop[:size])
        )
        return max(broken, *begun, 0)

    def _fresh(self, end: int) -> str:
        return self._decode(self._ids[self._window : end])[self._before :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
