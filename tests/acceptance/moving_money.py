"""Moves money at random until it is killed: ``python -m tests.acceptance.moving_money SEED``.

Several threads do to jobs whatever customers, workers and sweeps do, each in a transaction of its
own. A byte on standard output is one event that was committed.
"""

import os
import random
import sys
import threading
import time
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.orm import Session

from app import config, schema
from app.accounts import admin
from app.billing.prices import Price, Usage
from app.db import Database
from app.errors import DatabaseUnavailable
from app.jobs.cancel import cancel
from app.jobs.claim import claim
from app.jobs.ending import Ended
from app.jobs.expire import expire_queued
from app.jobs.finish import Result, failed, finish, succeeded
from app.jobs.rescue import rescue
from app.jobs.submit import Draft, Idempotency, Submitted, submit
from app.jobs.transition import End, Lease

THREADS = 6
LEASE_SECONDS = 0.5
URL = "http://here"
REASONS = ["stop", "length", "cancelled", "deadline"]
QUEUED = text("SELECT account_id, id FROM jobs WHERE status = 'queued' ORDER BY random() LIMIT 1")


class Mover:
    """One thread's random events; what it has claimed dies with it."""

    def __init__(self, database: Database, rng: random.Random) -> None:
        self.database = database
        self.rng = rng
        self.leases: list[Lease] = []
        with database.transaction() as session:
            self.accounts = list(session.scalars(text("SELECT id FROM accounts ORDER BY id")))

    def run(self) -> None:
        """For ever."""
        events = {
            self.submit: 6,
            self.claim: 4,
            self.finish: 6,
            self.cancel: 2,
            self.expire: 1,
            self.rescue: 1,
            self.grant: 1,
        }
        while True:
            (event,) = self.rng.choices(list(events), list(events.values()))
            try:
                with self.database.transaction() as session:
                    moved = event(session)
            except DatabaseUnavailable:
                time.sleep(0.1)
                continue
            if moved:
                os.write(1, b".")

    def submit(self, session: Session) -> bool:
        drafts = [self.draft() for _ in range(self.rng.randint(1, 4))]
        return any(isinstance(each, Submitted) for each in submit(session, drafts))

    def draft(self) -> Draft:
        return Draft(
            account_id=self.rng.choice(self.accounts),
            kind="generate",
            model="fake",
            version="1",
            price=Price(self.rng.randint(0, 3_000_000), self.rng.randint(0, 3_000_001)),
            at_most=Usage(3, 5),
            parameters={},
            prompt="one two three",
            messages=None,
            metadata={},
            webhook_url=None,
            priority=self.rng.randint(-1, 1),
            deadline_seconds=self.rng.choice([0, 3600, 3600]),
            request_id="r",
            idempotency=Idempotency(str(uuid4()), b""),
        )

    def claim(self, session: Session) -> bool:
        limit = self.rng.randint(1, 3)
        claimed = claim(
            session,
            [("fake", "1")],
            worker="w",
            lease_seconds=LEASE_SECONDS,
            limit=limit,
        )
        self.leases += [each.lease for each in claimed]
        return bool(claimed)

    def finish(self, session: Session) -> bool:
        some = self.rng.sample(self.leases, min(len(self.leases), self.rng.randint(1, 3)))
        ended = finish(session, [self.end(each) for each in some], base_url=URL)
        return any(isinstance(each, Ended) for each in ended)

    def end(self, lease: Lease) -> End:
        if self.rng.random() < 0.2:
            return failed(lease, code="engine_failed", message="It broke.")
        usage = Usage(self.rng.randint(0, 3), self.rng.randint(0, 9))  # too much now and then
        return succeeded(lease, Result("a", self.rng.choice(REASONS), usage))

    def cancel(self, session: Session) -> bool:
        row: tuple[UUID, UUID] | None = session.execute(QUEUED).first()
        return row is not None and cancel(session, *row, base_url=URL) is not None

    def expire(self, session: Session) -> bool:
        return bool(expire_queued(session, base_url=URL, fresh_seconds=15, limit=2))

    def rescue(self, session: Session) -> bool:
        return rescue(session, max_attempts=2, base_url=URL, limit=3) is not None

    def grant(self, session: Session) -> bool:
        amount = self.rng.randint(1, 50)
        admin.grant_credit(session, account_id=self.rng.choice(self.accounts), amount_micros=amount)
        return True


def main() -> None:
    """Start the threads and wait to be killed."""
    database = Database(config.current(), schema.metadata)
    seed = int(sys.argv[1])
    for number in range(THREADS):
        mover = Mover(database, random.Random(f"{seed} {number}"))
        threading.Thread(target=mover.run).start()


if __name__ == "__main__":
    main()
