"""Log-probabilities with the texts of their tokens."""

from collections.abc import Sequence
from typing import Any

from workers.engines.base import TokenLogprob
from workers.engines.native.wire import Logprobs


class TokenTexts:
    """The texts of a model's tokens, one by one; each is decoded once."""

    def __init__(self, tokenizer: Any) -> None:
        """``tokenizer`` is the model's own."""
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def described(self, ids: Sequence[int], logprobs: Logprobs) -> tuple[TokenLogprob, ...]:
        """What a customer reads of the tokens ``ids``; the logprobs of more are left out."""
        parts = zip(
            ids,
            logprobs.chosen.tolist(),
            logprobs.top_ids.tolist(),
            logprobs.top.tolist(),
            strict=False,
        )
        return tuple(
            TokenLogprob(
                token=self._text(token),
                logprob=chosen,
                top=tuple(zip(map(self._text, top_ids), top, strict=True)),
            )
            for token, chosen, top_ids, top in parts
        )

    def _text(self, token: int) -> str:
        if token not in self._texts:
            # Its leading space shows only behind another token: so it is read behind itself.
            alone = self._decode([token])
            self._texts[token] = self._decode([token, token])[len(alone) :]
        return self._texts[token]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text
