"""The log-probabilities of an answer, as they are stored and shown."""

import math
from collections.abc import Sequence
from typing import Any

from workers.engines.base import TokenLogprob

# For a probability of zero, whose logarithm JSON has no number for; OpenAI's API says the same.
ZERO_PROBABILITY = -9999.0


def as_json(tokens: Sequence[TokenLogprob] | None) -> list[dict[str, Any]] | None:
    """As in ``app.jobs.document.LogprobDocument``: natural logs, to six places."""
    if tokens is None:
        return None
    return [
        {**_shown(each.token, each.logprob), "top": [_shown(*one) for one in each.top]}
        for each in tokens
    ]


def _shown(token: str, logprob: float) -> dict[str, Any]:
    number = round(float(logprob), 6) if math.isfinite(logprob) else ZERO_PROBABILITY
    # PostgreSQL cannot store NUL.
    return {"token": token.replace("\x00", "\ufffd"), "logprob": number}
