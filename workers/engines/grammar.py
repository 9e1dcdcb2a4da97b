"""Answers that follow a JSON schema: at each step, which tokens may come next.

llguidance turns a schema into a grammar over bytes and walks the vocabulary's prefix tree along it
(docs/engine.md has what else was looked at). A schema that it cannot keep to the letter is
refused rather than kept loosely. There is one way to write each answer, ``{"a": 1, "b": [2, 3]}``:
were white space free, a small model could go on with nothing else until its tokens are used up.
"""

from collections.abc import Collection, Sequence
from typing import Any, Self

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from app.errors import EngineFailed, InvalidRequest

WORD = 32  # tokens in an element of a bitmask
STYLE: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
}
UNABLE = "This JSON schema cannot be followed"
# The library quotes patterns, and those can be long.
LONGEST_REASON = 300  # characters

Bits = NDArray[np.int32]


class Grammar:
    """The state of one answer, at first its beginning; one thread at a time."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def copy(self) -> Self:
        """The same state for another answer: much cheaper than compiling the schema again."""
        return type(self)(self._matcher.deep_copy())

    @property
    def done(self) -> bool:
        """Whether the answer is whole and nothing but an end-of-text token may follow."""
        return bool(self._matcher.is_stopped())

    def fill(self, row: Bits) -> None:
        """Set the bits of the tokens that may come next; shape (ceil(vocabulary / 32),).

        An end-of-text token is among them where the answer may end. A grammar that has become too
        large to go on allows every token, and fails at ``accept``: there it fails one row alone.
        """
        self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        if self._matcher.is_error():
            row.fill(-1)

    def accept(self, token: int) -> None:
        """Go on behind this token; raises EngineFailed when it cannot."""
        if not self._matcher.consume_token(token):
            reason = _sentence(self._matcher.get_error())
            raise EngineFailed(f"The answer cannot follow the schema: {reason}")


class Grammars:
    """Compiles schemas for one vocabulary; any thread may ask."""

    def __init__(
        self, tokenizer_json: str, *, vocabulary: int, end_tokens: Collection[int]
    ) -> None:
        """``tokenizer_json`` is a fast tokenizer, written as JSON; ``vocabulary`` how many logits
        a row has, or tokens the tokenizer, whichever is more; ``end_tokens`` the ids that end a
        text. Raises ValueError where the library cannot read the tokenizer.
        """
        self.words = -(-vocabulary // WORD)
        self._tokenizer = LLTokenizer(
            tokenizer_json, n_vocab=vocabulary, eos_token=sorted(end_tokens)
        )

    def compile(self, schema: str) -> Grammar:
        """The grammar of a JSON schema, given as text; raises InvalidRequest with what is wrong
        with it.

        A millisecond for a usual schema, and hours for some short ones: see native/schemas.py.
        Other threads may run meanwhile.
        """
        try:
            source = LLMatcher.grammar_from_json_schema(schema, overrides=STYLE)
        except ValueError as error:
            raise InvalidRequest(f"{UNABLE}: {_sentence(str(error))}") from error
        matcher = LLMatcher(self._tokenizer, source, log_level=0)
        if matcher.is_error():
            raise InvalidRequest(f"{UNABLE}: {_sentence(matcher.get_error())}")
        return Grammar(matcher)

    def mask(self, rows: Sequence[Grammar | None]) -> Bits:
        """Which tokens may come next in each row, every one where it has no grammar.

        Shape (rows, ceil(vocabulary / 32)): bit ``t % 32`` of element ``t // 32`` is token ``t``.
        """
        bits = np.full((len(rows), self.words), -1, np.int32)
        for row, grammar in zip(bits, rows, strict=True):
            if grammar is not None:
                grammar.fill(row)
        return bits


def _sentence(reason: str) -> str:
    """The library's reason on one line, without its state, which follows it."""
    words = " ".join(reason.partition("<state>")[0].split())
    return words[:LONGEST_REASON].rstrip(".") + "."
