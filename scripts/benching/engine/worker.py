"""The engine inside the product: jobs through API, queue, worker, PostgreSQL and webhook.

They are submitted one by one, each with a webhook, and as batches with one; the same prompts' worth
of work is given to the engine alone, in turn, in the same run.
"""

import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

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
MOST = 1000  # jobs in a batch
ALONE, SINGLE, BATCHES = "alone", "in the worker", "in the worker, as batches"

Json = dict[str, Any]
Call = tuple[str, Json]  # the path under /api/v1, and the body


def measure(
    alone: Host, prompts: Prompts, *, folder: Path, jobs: int, rounds: int, notes: Notes
) -> dict[str, list[float]]:
    """Tokens per second of the engine alone, of single jobs in the worker, and of jobs in batches,
    by these names, in alternating rounds.
    """
    catalog = bed.CATALOG.format(model=MODEL, source=folder, engine=alone.name)
    rates: dict[str, list[float]] = {ALONE: [], SINGLE: [], BATCHES: []}
    with bed.made(catalog) as ground, listening() as receiver:
        stack = ground.stack
        with notes.doing("starting the API and the workers"):
            worker = stack.worker(MODEL, slots=SLOTS)
            ground.start(stack.api(), worker, stack.delivery(), stack.beat())
        product = Product(ground, receiver)
        product.run_singly([prompts.text() for _ in range(CLIENTS)], prompts.tokens)
        for _ in range(rounds):
            rates[ALONE].append(ask(alone, prompts, jobs))
            texts = [prompts.text() for _ in range(jobs)]
            rates[SINGLE].append(product.run_singly(texts, prompts.tokens))
            texts = [prompts.text() for _ in range(jobs)]
            rates[BATCHES].append(product.run_batches(texts, prompts.tokens))
            for how, found in rates.items():
                notes.say(f"{alone.name} {how}, {jobs} requests: {found[-1]:,.0f} tokens/s")
    return rates


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

    def run_singly(self, texts: list[str], tokens: int) -> float:
        """Tokens per second from the first POST to the last webhook, of which each job has one."""

        def submit() -> None:
            with ThreadPoolExecutor(max_workers=CLIENTS) as clients:
                list(clients.map(self._submit, _shares(jobs)))

        told = {"webhook_url": self.receiver.url}
        jobs = [("complete", {**_job(text, tokens), **told}) for text in texts]
        return self._rate(submit, webhooks=len(texts), tokens=tokens * len(texts))

    def run_batches(self, texts: list[str], tokens: int) -> float:
        """The same of batches, of which each has one webhook."""
        jobs = [{"kind": "complete", **_job(text, tokens)} for text in texts]
        batches = [
            ("batches", {"jobs": jobs[first : first + MOST], "webhook_url": self.receiver.url})
            for first in range(0, len(jobs), MOST)
        ]
        return self._rate(
            lambda: self._submit(batches), webhooks=len(batches), tokens=tokens * len(texts)
        )

    def _rate(self, submit: Callable[[], None], *, webhooks: int, tokens: int) -> float:
        """Tokens per second when this submits what makes so many of them."""
        self.receiver.forget()
        before = self._generated()
        started = time.monotonic()
        submit()
        seconds = self.receiver.last_moment(webhooks) - started
        found = self._generated() - before
        if found != tokens:
            raise Problem(f"The jobs gave {found} tokens, not {tokens}.")
        return found / seconds

    def _submit(self, calls: list[Call]) -> None:
        """One after the other, over one connection."""
        connection = http.client.HTTPConnection(LOCALHOST, self.ground.stack.choices.port)
        headers = {
            "Authorization": f"Bearer {self.ground.key}",
            "Content-Type": "application/json",
        }
        for path, body in calls:
            connection.request("POST", f"/api/v1/{path}", json.dumps(body), headers)
            answer = connection.getresponse()
            said = answer.read().decode()
            if answer.status != HTTPStatus.ACCEPTED:
                raise Problem(f"What was submitted was refused ({answer.status}): {said}")
        connection.close()

    def _generated(self) -> int:
        """The completion tokens of all jobs so far."""
        connection = psycopg2.connect(self.ground.stack.database_url)
        with connection, connection.cursor() as cursor:
            cursor.execute(TOKENS)
            (tokens,) = cursor.fetchone()
        connection.close()
        return int(tokens or 0)


def _job(text: str, tokens: int) -> Json:
    return {"model": MODEL, "prompt": text, "max_tokens": tokens, "temperature": 0}


def _shares(calls: list[Call]) -> list[list[Call]]:
    """What each of the clients submits."""
    return [calls[first::CLIENTS] for first in range(CLIENTS)]
