"""Answers that follow a JSON schema: at each step, which tokens may come next.

llguidance turns a schema into a grammar over bytes and walks the vocabulary's prefix tree along it
(docs/engine.md has what else was looked at). A schema that it cannot keep to the letter is
refused rather than kept loosely. There is one way to write each answer, ``{"a": 1, "b": [2, 3]}``:
were white space free, a small model could go on with nothing else until its tokens are used up.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from app.errors import EngineFailed, InvalidRequest

WORD = 32  # tokens in an element of a bitmask

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
            raise EngineFailed(f"The answer cannot follow the schema: {_sentence(self._matcher)}")


class Grammars:
    """Compiles schemas for one vocabulary; any thread may ask."""

    def __init__(
        self, tokenizer_json: Path, *, vocabulary: int, end_tokens: Collection[int]
    ) -> None:
        """``tokenizer_json`` is the file of a fast tokenizer; ``vocabulary`` how many logits a row
        has; ``end_tokens`` the ids that end a text.
        """
        self.words = -(-vocabulary // WORD)
        self._tokenizer = LLTokenizer(
            tokenizer_json.read_text(), n_vocab=vocabulary, eos_token=sorted(end_tokens)
        )

    def compile(self, schema: dict[str, Any]) -> Grammar:
        """The grammar of a JSON schema; raises InvalidRequest with what is wrong with it.

        A millisecond for a usual schema, up to a second for a huge one; others may run meanwhile.
        """
        source = LLMatcher.grammar_from_json_schema(
            schema,
            overrides={
                "whitespace_flexible": False,
                "item_separator": ", ",
                "key_separator": ": ",
                "lenient": False,
            },
        )
        matcher = LLMatcher(self._tokenizer, source, log_level=0)
        if matcher.is_error():
            raise InvalidRequest(f"This JSON schema cannot be followed: {_sentence(matcher)}")
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


def forbid(logits: torch.Tensor, mask: torch.Tensor) -> None:
    """Set the logits, shape (rows, vocabulary), of tokens outside the mask to minus infinity.

    ``mask`` is that of Grammars.mask, int32, on the device of the logits.
    """
    places = torch.arange(WORD, dtype=torch.int32, device=mask.device)
    allowed = ((mask.unsqueeze(-1) >> places) & 1).flatten(1)
    logits.masked_fill_(allowed[:, : logits.shape[1]] == 0, -torch.inf)


def _sentence(matcher: LLMatcher) -> str:
    """The library's reason on one line, without its state, which follows it."""
    reason = matcher.get_error().partition("<state>")[0]
    return " ".join(reason.split()).rstrip(".") + "."
