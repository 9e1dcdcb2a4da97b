"""However often those who move money are killed, the books balance: ``gptqueue reconcile``.

The suite moves money a few hundred times; a campaign does it 10,000 times:
``PROMISE_EVENTS=10000 scripts/test tests/acceptance/test_promise_books.py -s``.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
from sqlalchemy import text

from app import cli
from app.config import Settings
from app.db import Database
from app.jobs import reconcile
from app.jobs.cancel import cancel
from app.jobs.rescue import rescue
from tests.acceptance.moving_money import LEASE_SECONDS, QUEUED, URL
from tests.conftest import ROOT, Customer

EVENTS = int(os.environ.get("PROMISE_EVENTS", "500"))
SEED = int(os.environ.get("PROMISE_SEED", "1"))
BETWEEN_KILLS = (50, 250)  # events
MOVERS = 2
CUT = text(
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE usename = current_user AND datname = current_database() AND pid <> pg_backend_pid()"
    " AND application_name = 'gptqueue'"
)


@pytest.fixture
def accounts(new_customer: type[Customer]) -> None:
    """Three with little credit, so that submits are refused, too."""
    for _ in range(3):
        new_customer(2000)


class Moving:
    """A process that moves money, and how often it has."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.events = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.moving_money", str(seed)],
            env={**os.environ, "DATABASE_URL": settings.database_url},
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )

    def until(self, events: int) -> None:
        """Read until it has done that many more; what is unread does not count."""
        assert self._process.stdout
        for _ in range(events):
            assert self._process.stdout.read(1), "it ended by itself"
            self.events += 1

    def kill(self) -> None:
        """As a crash would."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def moving(settings: Settings, seed: int) -> Iterator[Moving]:
    mover = Moving(settings, seed)
    try:
        yield mover
    finally:
        mover.kill()


def settle(database: Database) -> None:
    """End every job that waits or runs."""
    time.sleep(LEASE_SECONDS)
    busy = True
    while busy:
        with database.transaction() as session:
            row = session.execute(QUEUED).first()
            ended = row and cancel(session, *row, base_url=URL)
            lost = rescue(session, max_attempts=2, base_url=URL, limit=1000)
        busy = bool(ended) or lost is not None


@pytest.mark.timeout(300 + EVENTS)
@pytest.mark.usefixtures("accounts")
def test_after_random_events_with_kills_nothing_drifts_and_no_hold_outlives_its_job(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, seeds = random.Random(SEED), count(SEED * 1000)
    done = kills = cuts = 0
    while done < EVENTS:
        with moving(settings, next(seeds)) as one, moving(settings, next(seeds)) as other:
            one.until(rng.randint(*BETWEEN_KILLS))
            other.until(rng.randint(*BETWEEN_KILLS) // 5)
            if rng.random() < 0.3:
                with database.transaction() as session:
                    cuts += session.scalar(CUT)
                database.close()  # ours are cut, too
                one.until(20)
        done, kills = done + one.events + other.events, kills + MOVERS
        with database.transaction() as session:
            assert reconcile.everything(session) == []  # with jobs that wait and run
    settle(database)
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    assert cli.main(["reconcile"]) == 0
    with database.transaction() as session:
        assert session.scalar(text("SELECT sum(held_micros) FROM balances")) == 0
        ends = dict(session.execute(text("SELECT status, count(*) FROM jobs GROUP BY 1")).all())
        transfers = session.scalar(text("SELECT count(*) FROM transfers"))
    sys.stdout.write(f"{done} events, {kills} kills, {cuts} cut connections, {transfers} transfers")
    assert ends.keys() == {"succeeded", "failed", "cancelled", "expired"}
    assert transfers > done // 10  # neither claims nor what cannot be paid move money
