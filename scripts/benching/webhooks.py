"""What an endpoint that hangs costs the others: their time from event to arrival.

Events of several accounts are recorded at a steady rate and sent to endpoints that answer at once,
and so do those of one more account. In every other round the endpoint of that one takes connections
and never answers, so that it soon has all in flight that it may have, and many events wait for it.
"""

import argparse
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import UUID, uuid4

from sqlalchemy import update

from app import schema
from app.accounts import admin
from app.config import Settings
from app.db import Database
from app.queues import Broker
from app.webhooks import outbox
from app.webhooks.outbox import Event
from app.webhooks.tables import Delivery, DeliveryState
from scripts.benching import bed
from scripts.benching.bed import Bed
from scripts.benching.figures import Figure, lower_is_better, percentile
from scripts.benching.notes import Notes
from scripts.benching.receiver import Receiver, listening
from scripts.stack.ports import LOCALHOST

ENDPOINTS = 4
PER_SECOND = 40  # to those that answer, together
MORE_PER_SECOND = 10  # to the one more
MORE_AT_FIRST = 2 * Settings().webhook_concurrency_per_host
WARM_UP_SECONDS = 2.0


class Events:
    """Records events and tells the courier, as the end of a job does."""

    def __init__(self, ground: Bed) -> None:
        self._settings = Settings(
            database_url=ground.stack.database_url, redis_url=ground.stack.redis_url
        )
        self._broker = Broker(self._settings)
        self._database = Database(self._settings, schema.metadata)

    def open_account(self) -> UUID:
        """An account of its own, as every customer has."""
        with self._database.transaction() as session:
            return admin.open_account(session, name="bench", credit_micros=0).id

    def send(self, account_id: UUID, *urls: str) -> list[str]:
        """One event to each URL; the ids of their jobs."""
        job_ids = [uuid4() for _ in urls]
        events = [
            Event(
                account_id=account_id,
                job_id=job_id,
                type="job.succeeded",
                url=url,
                body=f'{{"id": "{job_id}"}}',
            )
            for job_id, url in zip(job_ids, urls, strict=True)
        ]
        with self._database.transaction() as session:
            deliveries = outbox.record(session, events)
        self._broker.enqueue_delivery(deliveries[0])
        return [str(job_id) for job_id in job_ids]

    def give_up(self, account_id: UUID) -> None:
        """Forget what still waits for an endpoint that hangs."""
        with self._database.transaction() as session:
            session.execute(
                update(Delivery)
                .where(Delivery.account_id == account_id, Delivery.ended_at.is_(None))
                .values(state=DeliveryState.ABANDONED, ended_at=Delivery.created_at)
            )

    def close(self) -> None:
        """Close the connections."""
        self._database.close()


def run(options: argparse.Namespace, notes: Notes) -> list[Figure]:
    """Alternating rounds: one more endpoint that answers, and one more that hangs."""
    with bed.made() as ground, ExitStack() as closing:
        receivers = [closing.enter_context(listening()) for _ in range(ENDPOINTS)]
        with notes.doing("starting the courier"):
            ground.start(ground.stack.delivery())
        events = Events(ground)
        closing.callback(events.close)
        accounts = [(events.open_account(), receiver) for receiver in receivers]
        measure(events, accounts, WARM_UP_SECONDS)
        calm, beside = [], []
        for _ in range(options.rounds):
            with listening() as prompt, one_more(events, prompt.url):
                calm.append(measure(events, accounts, options.seconds))
            with hanging() as url, one_more(events, url):
                beside.append(measure(events, accounts, options.seconds))
            for name, times in (
                ("beside one that answers", calm[-1]),
                ("beside one that hangs", beside[-1]),
            ):
                p50, p95 = percentile(times, 50), percentile(times, 95)
                notes.say(f"{name}: p50 {p50:.1f} ms, p95 {p95:.1f} ms")
    return [
        lower_is_better(
            f"webhook_p{percent}_beside_hanging",
            "ms",
            values=[percentile(times, percent) for times in beside],
            baselines=[percentile(times, percent) for times in calm],
        )
        for percent in (50, 95)
    ]


def measure(events: Events, accounts: list[tuple[UUID, Receiver]], seconds: float) -> list[float]:
    """The milliseconds from the commit of each event to its arrival."""
    sent: list[tuple[str, Receiver, float]] = []
    start = time.monotonic()
    for number in range(round(seconds * PER_SECOND)):
        time.sleep(max(0.0, start + number / PER_SECOND - time.monotonic()))
        account_id, receiver = accounts[number % len(accounts)]
        before = time.monotonic()
        (job_id,) = events.send(account_id, receiver.url)
        sent.append((job_id, receiver, before))
    return [(receiver.moment(job_id) - before) * 1000 for job_id, receiver, before in sent]


@contextmanager
def one_more(events: Events, url: str) -> Iterator[None]:
    """Another account with events of its own for this endpoint."""
    stop = threading.Event()
    account_id = events.open_account()
    events.send(account_id, *[url] * MORE_AT_FIRST)

    def go_on() -> None:
        while not stop.wait(1 / MORE_PER_SECOND):
            events.send(account_id, url)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        events.give_up(account_id)


@contextmanager
def hanging() -> Iterator[str]:
    """The URL of an endpoint that takes connections and never answers."""
    with socket.create_server((LOCALHOST, 0), backlog=256) as server:
        yield f"http://{LOCALHOST}:{server.getsockname()[1]}/"
