"""Whatever happens to jobs in whatever order: an end is final, one lease lives, the books balance.

Hypothesis makes up the orders. The suite tries a few, always the same ones; a long run makes up
its own: ``PROMISE_EXAMPLES=2000 scripts/test tests/integration/test_promise_any_order.py``.
"""

import os
from dataclasses import dataclass, replace
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from app.accounts import admin
from app.billing.prices import Price, Usage
from app.db import Database
from app.errors import IdempotencyKeyReused, InsufficientCredit, LeaseLost
from app.jobs import lease
from app.jobs.cancel import cancel
from app.jobs.claim import claim
from app.jobs.ending import Ended
from app.jobs.expire import expire_queued
from app.jobs.finish import Result, failed, finish, succeeded
from app.jobs.handback import hand_back
from app.jobs.rescue import rescue
from app.jobs.states import TERMINAL, TRANSITIONS
from app.jobs.submit import Draft, Idempotency, Submitted, submit
from app.jobs.transition import End, Lease
from tests import books

EXAMPLES = int(os.environ.get("PROMISE_EXAMPLES", "0"))
SUITE_EXAMPLES = 30
STEPS = 40
URL = "http://here"
CREDIT = 90  # a job holds 3 to 13 of it
MAX_ATTEMPTS = 2
STATUS = {"stop": "succeeded", "cancelled": "cancelled", "deadline": "expired"}

# Numbers of jobs or leases, see ``picked``.
some = st.integers(min_value=0, max_value=11)


def picked(which: list[int], things: list[Any]) -> list[Any]:
    """Some of these, each once."""
    return list({things[each % len(things)]: None for each in which})


@dataclass(frozen=True)
class Seen:
    """A job, and all that belongs to it, as they were after the last step."""

    status: str
    attempt: int
    losses: int
    rows: dict[str, Any]


class Jobs(RuleBasedStateMachine):
    """Every arrow of the state machine, at any time, by its owner or by one who was."""

    numbers = count(1)

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.model = f"model-{next(self.numbers)}"  # so that nobody claims jobs of another example
        self.drafts: list[Draft] = []
        self.leases: list[Lease] = []
        self.seen: dict[UUID, Seen] = {}

    @initialize()
    def begin(self) -> None:
        """With jobs that wait, that run, and that another worker has taken over."""
        with self.database.transaction() as session:
            self.accounts = [
                admin.open_account(session, name="test", credit_micros=CREDIT).id for _ in range(2)
            ]
        self.submit([0, 1, 2, 3], 5)
        self.an_end_is_final_and_every_step_an_arrow()
        self.claim(3)
        self.an_end_is_final_and_every_step_an_arrow()
        self.lose_the_workers([0, 1], taken_again=True)

    def draft(self, which: int, tokens: int) -> Draft:
        return Draft(
            account_id=self.accounts[which % 2],
            kind="generate",
            model=self.model,
            version="1",
            price=Price(1_000_000, 2_000_000),
            at_most=Usage(3, tokens),
            parameters={"max_tokens": tokens},
            prompt="one two three",
            messages=None,
            metadata={},
            webhook_url="http://127.0.0.1:9/" if which % 3 else None,
            priority=which % 2,
            deadline_seconds=3600,
            request_id="r",
            idempotency=Idempotency(str(uuid4()), bytes([tokens])),
            job_id=UUID(int=next(self.numbers)),
        )

    @rule(which=st.lists(some, min_size=1, max_size=4), tokens=st.integers(0, 5))
    def submit(self, which: list[int], tokens: int) -> None:
        drafts = [self.draft(each, tokens) for each in which]
        with self.database.transaction() as session:
            answers = submit(session, drafts)
        for draft, answer in zip(drafts, answers, strict=True):
            if isinstance(answer, Submitted):
                self.drafts.append(draft)
            else:
                assert isinstance(answer, InsufficientCredit)

    @precondition(lambda self: self.drafts)
    @rule(which=some, other=st.booleans())
    def submit_again(self, which: int, other: bool) -> None:
        first = self.drafts[which % len(self.drafts)]
        assert first.idempotency
        again = replace(first, job_id=uuid4())
        if other:
            again = replace(again, idempotency=replace(first.idempotency, request_hash=b"other"))
        with self.database.transaction() as session:
            (answer,) = submit(session, [again])
        if other:
            assert isinstance(answer, IdempotencyKeyReused)
        else:
            assert answer == Submitted(first.job_id)

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        with self.database.transaction() as session:
            claimed = claim(
                session,
                [(self.model, "1")],
                worker="w",
                lease_seconds=3600,
                limit=limit,
            )
        for each in claimed:
            assert self.seen[each.lease.job_id].status == "queued"
            assert each.lease.attempt == self.seen[each.lease.job_id].attempt + 1
        self.leases += [each.lease for each in claimed]

    def is_live(self, held: Lease) -> bool:
        seen = self.seen[held.job_id]
        return (seen.status, seen.attempt) == ("running", held.attempt)

    @precondition(lambda self: self.leases)
    @rule(which=st.lists(some, min_size=1, max_size=4))
    def renew(self, which: list[int]) -> None:
        leases = picked(which, self.leases)
        with self.database.transaction() as session:
            kept = lease.renew(session, leases, 3600)
        assert kept == {each for each in leases if self.is_live(each)}

    @precondition(lambda self: self.leases)
    @rule(which=st.lists(some, min_size=1, max_size=4), data=st.data())
    def finish(self, which: list[int], data: st.DataObject) -> None:
        """By whoever ever had the job."""
        self.end_these(picked(which, self.leases), data)

    def zombies(self) -> list[Lease]:
        running = self.now("running")
        return [each for each in self.leases if each.job_id in running and not self.is_live(each)]

    @precondition(lambda self: self.zombies())
    @rule(which=some, data=st.data(), with_the_owner=st.booleans())
    def finish_late(self, which: int, data: st.DataObject, with_the_owner: bool) -> None:
        """By one whose job another one has in hand, and perhaps in the same moment as that one."""
        (late,) = picked([which], self.zombies())
        owner = Lease(late.job_id, self.seen[late.job_id].attempt)
        self.end_these([late, owner] if with_the_owner else [late], data)

    def end_these(self, leases: list[Lease], data: st.DataObject) -> None:
        ends = [data.draw(self.end(each)) for each in leases]
        with self.database.transaction() as session:
            answers = finish(session, ends, base_url=URL)
        assert [isinstance(each, Ended) for each in answers] == list(map(self.is_live, leases))
        assert all(isinstance(each, Ended | LeaseLost) for each in answers)

    def end(self, held: Lease) -> st.SearchStrategy[End]:
        usage = st.builds(Usage, st.integers(0, 3), st.integers(0, 9))
        result = st.builds(Result, st.just("a"), st.sampled_from(list(STATUS)), usage)
        return st.one_of(
            result.map(lambda each: succeeded(held, each)),
            st.just(failed(held, code="engine_failed", message="It broke.")),
        )

    @precondition(lambda self: self.drafts)
    @rule(which=some)
    def cancel(self, which: int) -> None:
        draft = self.drafts[which % len(self.drafts)]
        with self.database.transaction() as session:
            ended = cancel(session, draft.account_id, draft.job_id, base_url=URL)
        assert (ended is not None) == (self.seen[draft.job_id].status == "queued")

    def now(self, status: str) -> list[UUID]:
        return [job_id for job_id, seen in self.seen.items() if seen.status == status]

    @precondition(lambda self: self.now("running"))
    @rule(which=st.lists(some, min_size=1, max_size=3), taken_again=st.booleans())
    def lose_the_workers(self, which: list[int], taken_again: bool) -> None:
        """Their leases run out, the sweep comes by, and perhaps another worker."""
        self.let_pass("lease_until", picked(which, self.now("running")))
        with self.database.transaction() as session:
            rescue(session, max_attempts=MAX_ATTEMPTS, base_url=URL)
        self.an_end_is_final_and_every_step_an_arrow()
        if taken_again:
            self.claim(limit=12)

    @precondition(lambda self: self.leases)
    @rule(which=st.lists(some, min_size=1, max_size=3))
    def stop_a_worker(self, which: list[int]) -> None:
        """Which hands back what it believes to own."""
        leases = picked(which, self.leases)
        with self.database.transaction() as session:
            answer = hand_back(session, leases, base_url=URL)
        settled = {job_id for _, job_id in answer.waiting} | {each.job_id for each in answer.ended}
        assert settled == {each.job_id for each in leases if self.is_live(each)}

    @precondition(lambda self: self.now("queued"))
    @rule(which=some)
    def pass_a_deadline(self, which: int) -> None:
        self.let_pass("deadline_at", picked([which], self.now("queued")))
        with self.database.transaction() as session:
            expire_queued(session, base_url=URL, fresh_seconds=15)

    def let_pass(self, what: str, job_ids: list[UUID]) -> None:
        statement = f"UPDATE jobs SET {what} = now() - interval '1 second' WHERE id = ANY(:ids)"
        with self.database.transaction() as session:
            session.execute(text(statement), {"ids": job_ids})

    @invariant()
    def the_books_balance(self) -> None:
        with self.database.transaction() as session:
            assert books.wrong(session, self.accounts) == []

    @invariant()
    def an_end_is_final_and_every_step_an_arrow(self) -> None:
        now = self.look()
        assert now.keys() == {draft.job_id for draft in self.drafts}
        for job_id, before in self.seen.items():
            after = now[job_id]
            assert before.attempt <= after.attempt
            assert after.losses <= MAX_ATTEMPTS
            if before.status in TERMINAL:
                assert after == before
            assert before.status == after.status or (before.status, after.status) in TRANSITIONS
        self.seen = now

    def look(self) -> dict[UUID, Seen]:
        with self.database.transaction() as session:
            rows = session.execute(_EVERYTHING, {"model": self.model})
            return {row.id: Seen(row.status, row.attempt, row.losses, row.rows) for row in rows}

    def teardown(self) -> None:
        """Every job can be brought to an end, and then nothing is held any more."""
        for draft in self.drafts:
            with self.database.transaction() as session:
                cancel(session, draft.account_id, draft.job_id, base_url=URL)
        self.an_end_is_final_and_every_step_an_arrow()
        self.let_pass("lease_until", self.now("running"))
        with self.database.transaction() as session:
            rescue(session, max_attempts=MAX_ATTEMPTS, base_url=URL, limit=1000)
        self.the_books_balance()
        self.an_end_is_final_and_every_step_an_arrow()
        assert {seen.status for seen in self.seen.values()} <= TERMINAL


_EVERYTHING = text(
    """
    SELECT j.id, j.status, j.attempt, (
        SELECT count(*) FROM attempts a WHERE a.job_id = j.id AND a.outcome = 'lost') AS losses,
        jsonb_build_array(
        to_jsonb(j), to_jsonb(c), to_jsonb(o),
        (SELECT jsonb_agg(a ORDER BY a.number) FROM attempts a WHERE a.job_id = j.id),
        (SELECT jsonb_agg(t ORDER BY t.id) FROM transfers t WHERE t.job_id = j.id),
        (SELECT jsonb_agg(d) FROM webhook_deliveries d WHERE d.job_id = j.id)) AS rows
    FROM jobs j JOIN charges c ON c.job_id = j.id LEFT JOIN outputs o ON o.job_id = j.id
    WHERE j.model = :model ORDER BY j.id
    """
)


@pytest.mark.timeout(120 + 2 * EXAMPLES)
def test_in_whatever_order_things_happen_ends_are_final_and_the_books_balance(
    database: Database,
) -> None:
    run_state_machine_as_test(
        lambda: Jobs(database),
        settings=settings(
            max_examples=EXAMPLES or SUITE_EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # To make a failing example smaller takes minutes.
            phases=[Phase.generate, *([Phase.shrink] if EXAMPLES else [])],
        ),
    )
