"""The engine inside the product: jobs through API, queue, worker, PostgreSQL and webhook.

The same prompts' worth of work is given to the engine alone, in turn, in the same run.
"""

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import psycopg2

from scripts.benching import bed
from scripts.benching.bed import Bed
from scripts.benching.engine.entries import SLOTS
from scripts.benching.engine.host import Host
from scripts.benching.engine.prompts import Prompts
from scripts.benching.engine.work import Failed, rate
from scripts.benching.notes import Notes
from scripts.benching.receiver import Receiver, listening
from scripts.stack.ports import LOCALHOST
from scripts.stack.problem import Problem

MODEL = "bench"
TOKENS = "SELECT sum(completion_tokens) FROM jobs"
CLIENTS = 8


def measure(
    alone: Host, prompts: Prompts, *, folder: Path, jobs: int, rounds: int, notes: Notes
) -> tuple[list[float], list[float]]:
    """Tokens per second inside the worker, and of the engine ``alone``, in alternating rounds."""
    catalog = bed.CATALOG.format(model=MODEL, source=folder, engine=alone.name)
    inside, outside = [], []
    with bed.made(catalog) as ground, listening() as receiver:
        stack = ground.stack
        with notes.doing("starting the API and the workers"):
            worker = stack.worker(MODEL, slots=SLOTS)
            ground.start(stack.api(), worker, stack.delivery(), stack.beat())
        product = Product(ground, receiver)
        product.run([prompts.text() for _ in range(CLIENTS)], prompts.tokens)
        for _ in range(rounds):
            outside.append(ask(alone, prompts, jobs))
            notes.say(f"{alone.name} alone, {jobs} requests: {outside[-1]:,.0f} tokens/s")
            texts = [prompts.text() for _ in range(jobs)]
            inside.append(product.run(texts, prompts.tokens))
            notes.say(f"{alone.name} in the worker, {jobs} jobs: {inside[-1]:,.0f} tokens/s")
    return inside, outside


def ask(alone: Host, prompts: Prompts, requests: int) -> float:
    """Tokens per second of the engine, as many requests at a time as a worker has slots."""
    try:
        return rate(alone.ask(prompts.together(requests, SLOTS)))
    except Failed as error:
        raise Problem(f"{alone.name}: {error}") from error


@dataclass(frozen=True)
class Product:
    """A stack that runs, and where its webhooks arrive."""

    ground: Bed
    receiver: Receiver

    def run(self, texts: list[str], tokens: int) -> float:
        """Tokens per second from the first POST to the last webhook."""
        self.receiver.forget()
        before = self._generated()
        started = time.monotonic()
        with ThreadPoolExecutor(max_workers=CLIENTS) as clients:
            list(clients.map(lambda share: self._submit(share, tokens), _shares(texts)))
        seconds = self.receiver.last_moment(len(texts)) - started
        found = self._generated() - before
        if found != tokens * len(texts):
            raise Problem(f"{len(texts)} jobs gave {found} tokens, not {tokens * len(texts)}.")
        return found / seconds

    def _submit(self, texts: list[str], tokens: int) -> None:
        """One client's jobs, over one connection."""
        connection = http.client.HTTPConnection(LOCALHOST, self.ground.stack.choices.port)
        headers = {
            "Authorization": f"Bearer {self.ground.key}",
            "Content-Type": "application/json",
        }
        for text in texts:
            body = {"model": MODEL, "prompt": text, "max_tokens": tokens, "temperature": 0}
            message = json.dumps({**body, "webhook_url": self.receiver.url})
            connection.request("POST", "/api/v1/complete", message, headers)
            answer = connection.getresponse()
            said = answer.read().decode()
            if answer.status != HTTPStatus.ACCEPTED:
                raise Problem(f"A job was refused ({answer.status}): {said}")
        connection.close()

    def _generated(self) -> int:
        """The completion tokens of all jobs so far."""
        connection = psycopg2.connect(self.ground.stack.database_url)
        with connection, connection.cursor() as cursor:
            cursor.execute(TOKENS)
            (tokens,) = cursor.fetchone()
        connection.close()
        return int(tokens or 0)


def _shares(texts: list[str]) -> list[list[str]]:
    """What each of the clients submits."""
    return [texts[first::CLIENTS] for first in range(CLIENTS)]
