"""How the fake engine behaves: what a catalog version's source says."""

from dataclasses import dataclass
from urllib.parse import parse_qsl

from app.errors import ModelLoadFailed


@dataclass(frozen=True, slots=True)
class FakeBehaviour:
    """How a FakeEngine behaves; 0 turns a fault off.

    ``tokens_per_second`` is each request's own speed, 0 answers at once; ``answer_tokens`` is the
    length of an answer that nothing cuts short, 0 for 8 to 64, by prompt. Every n-th request
    fails at its end (``fail_every``) or never ends by itself (``hang_every``); ``fail_at_load`` 1
    refuses to load at all.
    """

    tokens_per_second: float = 0
    answer_tokens: int = 0
    fail_every: int = 0
    hang_every: int = 0
    fail_at_load: int = 0

    @classmethod
    def parse(cls, source: str) -> "FakeBehaviour":
        """The behaviour that a catalog source names; raises ModelLoadFailed, also when asked to."""
        given = dict(parse_qsl(source.partition(":")[2], keep_blank_values=True))
        try:
            speed = float(given.pop("tokens_per_second", 0))
            counts = {name: int(value) for name, value in given.items()}
            behaviour = cls(tokens_per_second=speed, **counts)
        except (TypeError, ValueError) as error:
            raise ModelLoadFailed(f"The fake engine does not understand {source!r}.") from error
        if behaviour.fail_at_load:
            raise ModelLoadFailed("The fake engine was told to fail at load.")
        return behaviour
