"""What each step of a job takes in full tables, beside nearly empty ones.

The baseline is a database with 1,000 jobs; the other has ``--jobs`` (1,000,000), all ended,
delivered, and of the one account that is asked. The steps are called in turn on both, one job at a
time.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg2
from sqlalchemy.orm import Session

from app import schema
from app.accounts import admin
from app.billing import usage
from app.billing.prices import Price, Usage
from app.config import Settings
from app.db import Database
from app.jobs import finish, queries
from app.jobs.claim import claim
from app.jobs.counts import counts
from app.jobs.submit import Draft, submit
from app.jobs.transition import Lease
from scripts.arguments import count
from scripts.benching import bed
from scripts.benching.bed import Bed
from scripts.benching.figures import Figure, lower_is_better
from scripts.benching.filling import fill
from scripts.benching.notes import Notes

FEW = 1_000
BASE_URL = "http://localhost"
RESULT = finish.Result(text="An answer. " * 20, finish_reason="stop", usage=Usage(10, 60))


def add_options(command: argparse.ArgumentParser) -> None:
    """Those of this benchmark alone."""
    command.add_argument(
        "--jobs", type=count, default=1_000_000, help="in the tables (default: 1,000,000)"
    )
    command.add_argument("--calls", type=count, default=200, help="of each step (default: 200)")


def run(options: argparse.Namespace, notes: Notes) -> list[Figure]:
    """Fill both, then take turns."""
    with bed.made() as ground:
        few = Steps(ground, "few")
        many = Steps(ground, "many")
        for steps, jobs in ((few, FEW), (many, options.jobs)):
            with notes.doing(f"filling in {jobs:,} jobs"):
                started = time.monotonic()
                fill(steps.url, steps.account_id, jobs)
            notes.say(f"{jobs:,} jobs filled in within {time.monotonic() - started:.0f} s")
        times = measure([many, few], options.calls, notes)
        few.close()
        many.close()
    return [
        lower_is_better(f"growth_{name}", "ms", values=full, baselines=empty)
        for name, (full, empty) in times.items()
    ]


class Steps:
    """Each step of a job on one database of its own."""

    def __init__(self, ground: Bed, name: str) -> None:
        with closing(psycopg2.connect(ground.stack.database_url)) as connection:
            connection.autocommit = True
            connection.cursor().execute(f"CREATE DATABASE {name}")
        self.url = ground.stack.database_url.rpartition("/")[0] + f"/{name}"
        bed.migrate(self.url)
        self._database = Database(Settings(database_url=self.url), schema.metadata)
        with self._database.transaction() as session:
            account = admin.open_account(session, name="bench", credit_micros=bed.CREDIT_MICROS)
        self.account_id = account.id
        self._lease: Lease | None = None
        self._job_id: UUID | None = None

    def take(self, name: str) -> float:
        """Do the step of this name; the milliseconds that it took, commit included."""
        step: Callable[[Session], None] = getattr(self, name)
        started = time.monotonic()
        with self._database.transaction() as session:
            step(session)
        return (time.monotonic() - started) * 1000

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def submit(self, session: Session) -> None:
        """Store a job and hold its price."""
        (answer,) = submit(session, [draft(self.account_id)])
        assert not isinstance(answer, Exception)
        self._job_id = answer.job_id

    def claim(self, session: Session) -> None:
        """Take it."""
        (claimed,) = claim(session, [(bed.MODEL, "1")], worker="bench", lease_seconds=3600, limit=1)
        self._lease = claimed.lease

    def finish(self, session: Session) -> None:
        """Store its result, charge it, record its webhook."""
        assert self._lease is not None
        finish.finish(session, [finish.succeeded(self._lease, RESULT)], base_url=BASE_URL)

    def read(self, session: Session) -> None:
        """Read it."""
        assert self._job_id is not None
        wanted = [queries.Owned(self.account_id, self._job_id)]
        queries.read(session, wanted, base_url=BASE_URL, fresh_seconds=15)

    def list(self, session: Session) -> None:
        """Read a page of the account's jobs."""
        wanted = queries.Filter()
        queries.page(session, self.account_id, wanted, base_url=BASE_URL, fresh_seconds=15)

    def usage(self, session: Session) -> None:
        """Read thirty days of the account's usage."""
        today = datetime.now(UTC).date()
        usage.report(session, self.account_id, first=today - timedelta(days=29), last=today)

    def metrics(self, session: Session) -> None:
        """Read what Prometheus is told."""
        counts(session)


STEPS = ("submit", "claim", "finish", "read", "list", "usage", "metrics")


def measure(
    sides: list[Steps], calls: int, notes: Notes
) -> dict[str, tuple[list[float], list[float]]]:
    """The milliseconds of every call: for each step, those of one side and those of the other."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in STEPS}
    for call in range(-calls // 10, calls):
        for name in STEPS:
            for side, found in zip(sides, times[name], strict=True):
                took = side.take(name)
                if call >= 0:  # the first ones warm up
                    found.append(took)
    notes.say(f"{calls} calls of each step on both sides")
    return times


def draft(account_id: UUID) -> Draft:
    """A job like that of ``scripts/bench submit``, with a webhook."""
    return Draft(
        account_id=account_id,
        kind="generate",
        model=bed.MODEL,
        version="1",
        price=Price(1_000_000, 2_000_000),
        at_most=Usage(10, 64),
        parameters={"max_tokens": 64},
        prompt="Why is a queue better than a lock?",
        messages=None,
        metadata={},
        webhook_url="https://example.com/hook",
        priority=0,
        deadline_seconds=3600,
        request_id="bench",
        idempotency=None,
    )
