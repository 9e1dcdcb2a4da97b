"""Tokens -> money, in integers only.

Prices are micro-USD per million tokens. An amount is
``ceil((prompt_tokens * input_price + completion_tokens * output_price) / 1_000_000)`` micro-USD:
rounded once, up, to the next millionth of a dollar.
"""

from dataclasses import dataclass

_TOKENS_PER_PRICE = 1_000_000
CURRENCY = "USD"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and tokens written."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Price:
    """Micro-USD per million tokens, as it stood at submit."""

    input_micros: int
    output_micros: int

    def of(self, usage: Usage) -> int:
        """The amount for this usage, in micro-USD."""
        exact = (
            usage.prompt_tokens * self.input_micros + usage.completion_tokens * self.output_micros
        )
        return -(-exact // _TOKENS_PER_PRICE)

    def percent(self, share: int) -> "Price":
        """So many hundredths of it; each rate is rounded up to the next micro."""
        return Price(-(-self.input_micros * share // 100), -(-self.output_micros * share // 100))
