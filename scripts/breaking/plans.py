"""What each of the jobs is to be like, drawn from the seed."""

import json
import random
from dataclasses import dataclass
from typing import Any

from scripts.breaking.stage import CREDITS, MODEL

PATHS = ("generate", "complete", "chat")
LONGEST_TOKENS = 100  # two seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One job and what its customer does about it."""

    number: int
    customer: int
    path: str
    body: bytes
    key: str | None  # its Idempotency-Key
    again: bool  # submitted a second time, with the same key
    cancel_after: float | None  # seconds
    watched: bool  # read until it ends, or for a while


class Plans:
    """The plans of one run; the same seed gives the same ones."""

    def __init__(self, seed: int, webhook_url: str) -> None:
        self._seed = seed
        self._webhook_url = webhook_url

    def draw(self, number: int) -> Plan:
        """The plan of that number."""
        chance = random.Random(f"{self._seed}:{number}")
        customer, path = chance.randrange(len(CREDITS)), chance.choice(PATHS)
        keyed = chance.random() < 0.6
        cancelled = chance.random() < 0.12
        return Plan(
            number=number,
            customer=customer,
            path=path,
            body=self._body(chance, number, customer=customer, path=path),
            key=f"plan-{number}" if keyed else None,
            again=keyed and chance.random() < 0.2,
            cancel_after=chance.uniform(0, 1.5) if cancelled else None,
            watched=chance.random() < 0.2,
        )

    def _body(self, chance: random.Random, number: int, *, customer: int, path: str) -> bytes:
        text = f"What is job number {number}" + " really" * chance.randrange(20)
        body: dict[str, Any] = {
            "model": MODEL,
            "max_tokens": chance.randint(10, LONGEST_TOKENS),
            "metadata": {"plan": str(number)},
            "priority": chance.choice((0, 0, 0, 10)),
        }
        if path == "chat":
            body["messages"] = [{"role": "user", "content": text}]
        else:
            body["prompt"] = text
        if chance.random() < 0.85:
            body["webhook_url"] = f"{self._webhook_url}{customer}"
        if chance.random() < 0.08:
            body |= {"deadline_seconds": 1, "max_tokens": LONGEST_TOKENS}
        return json.dumps(body).encode()
