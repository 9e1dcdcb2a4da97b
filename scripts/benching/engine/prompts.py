"""What contestants are asked: English text of many lengths, new in every round."""

import pydoc_data.topics
import random
from collections.abc import Iterator

from scripts.benching.engine.work import Work

# A word of this text is about 1.8 tokens of the demo model.
FEWEST_WORDS, MOST_WORDS = 5, 45


class Prompts:
    """Passages of the Python reference, cut at random: no two begin alike.

    A contestant that keeps the keys and values of prompts that it has seen gains nothing.
    """

    def __init__(self, tokens: int, seed: int) -> None:
        """``tokens`` is how many each is to be continued by."""
        self.tokens = tokens
        self._random = random.Random(seed)
        self._words = " ".join(pydoc_data.topics.topics.values()).split()

    def together(self, count: int, in_flight: int, *, stream: bool = False) -> Work:
        """So many that arrive at the same moment."""
        return self._work([0.0] * count, in_flight, stream=stream)

    def at_random(self, rate: float, seconds: float, *, in_flight: int) -> Work:
        """Independent arrivals (a Poisson process), ``rate`` per second; at least one."""
        arrivals = list(self._moments(rate, seconds)) or [0.0]
        return self._work(arrivals, in_flight)

    def text(self) -> str:
        """One prompt."""
        length = self._random.randint(FEWEST_WORDS, MOST_WORDS)
        start = self._random.randrange(len(self._words) - length)
        return " ".join(self._words[start : start + length])

    def _moments(self, rate: float, seconds: float) -> Iterator[float]:
        moment = self._random.expovariate(rate)
        while moment < seconds:
            yield moment
            moment += self._random.expovariate(rate)

    def _work(self, arrivals: list[float], in_flight: int, *, stream: bool = False) -> Work:
        return Work(
            prompts=[self.text() for _ in arrivals],
            tokens=self.tokens,
            arrivals=arrivals,
            in_flight=in_flight,
            stream=stream,
        )
