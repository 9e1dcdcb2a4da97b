"""Submits that come together, in one transaction: a key and its credit count once."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import func, select, text
from uuid_utils.compat import uuid7

from app.api.submitting import Accepted, Submitter
from app.billing.prices import Price, Usage
from app.billing.tables import Balance, Charge
from app.config import Settings
from app.db import Database
from app.errors import GPTQueueError, IdempotencyKeyReused, InsufficientCredit
from app.jobs.submit import Answer, Draft, Idempotency, Submitted, submit
from app.jobs.tables import Job
from app.queues import Broker
from tests.conftest import CREDIT_MICROS, Customer

HELD = 3 * 1 + 5 * 2  # three words in, five tokens out, at one and two micros
MANY = 24
NewDraft = Callable[..., Draft]


@pytest.fixture
def new_draft(customer: Customer) -> NewDraft:
    """Make a draft with a key; another ``body`` is another request."""

    def make(key: str | None = "k", body: str = "one two three", max_tokens: int = 5) -> Draft:
        request_hash = hashlib.sha256(body.encode()).digest()
        return Draft(
            account_id=customer.id,
            kind="generate",
            model="fake",
            version="1",
            price=Price(1_000_000, 2_000_000),
            at_most=Usage(3, max_tokens),
            parameters={"max_tokens": max_tokens},
            prompt=body,
            messages=None,
            metadata={},
            webhook_url=None,
            priority=0,
            deadline_seconds=60,
            request_id="r",
            idempotency=None if key is None else Idempotency(key, request_hash),
        )

    return make


@pytest.fixture
def submit_together(database: Database) -> Callable[..., list[Answer]]:
    """Submit drafts in one transaction."""

    def together(*drafts: Draft) -> list[Answer]:
        with database.transaction() as session:
            return submit(session, drafts)

    return together


@pytest.fixture
def submit_at_once(
    settings: Settings, database: Database, customer: Customer
) -> Iterator[Callable[[Sequence[Draft]], list[Accepted | GPTQueueError]]]:
    """Submit drafts as that many requests do that come while one is being stored."""
    submitter = Submitter(settings, database, Broker(settings))

    def one(draft: Draft) -> Accepted | GPTQueueError:
        try:
            return submitter.submit(draft)
        except GPTQueueError as error:
            return error

    def waiting() -> int:
        lane = submitter._held_up.get(customer.id)
        return len(lane.group._waiting) if lane else 0

    def at_once(drafts: Sequence[Draft]) -> list[Accepted | GPTQueueError]:
        with ThreadPoolExecutor(len(drafts)) as threads:
            with database.transaction() as session:
                session.get_one(Balance, customer.id, with_for_update=True)
                asked = [threads.submit(one, draft) for draft in drafts]
                deadline = time.monotonic() + 10
                while waiting() < len(drafts) - 1:
                    assert time.monotonic() < deadline
                    time.sleep(0.001)
            answers = [each.result() for each in asked]
        assert not any(lane.callers for lane in submitter._held_up.values())
        return answers

    yield at_once


@pytest.fixture
def stored(database: Database, customer: Customer) -> Callable[[], tuple[int, int, int, int]]:
    """How many jobs and holds there are, and what is held and left of the credit."""

    def look() -> tuple[int, int, int, int]:
        with database.transaction() as session:
            jobs = session.scalar(select(func.count()).select_from(Job)) or 0
            holds = session.scalar(select(func.count()).select_from(Charge)) or 0
            balance = session.get_one(Balance, customer.id)
            return jobs, holds, balance.held_micros, balance.available_micros

    return look


ONE_JOB = (1, 1, HELD, CREDIT_MICROS - HELD)


def test_equal_requests_with_one_key_at_once_make_one_job_and_one_hold(
    new_draft: NewDraft,
    submit_at_once: Callable[[Sequence[Draft]], list[Accepted | GPTQueueError]],
    stored: Callable[[], tuple[int, int, int, int]],
) -> None:
    answers = submit_at_once([new_draft() for _ in range(MANY)])
    assert all(isinstance(answer, Accepted) for answer in answers)
    assert len({answer.job_id for answer in answers}) == 1
    assert [answer.document is None for answer in answers].count(False) == 1
    assert stored() == ONE_JOB


def test_different_requests_with_one_key_at_once_make_one_job_and_refuse_the_others(
    new_draft: NewDraft,
    submit_at_once: Callable[[Sequence[Draft]], list[Accepted | GPTQueueError]],
    stored: Callable[[], tuple[int, int, int, int]],
) -> None:
    drafts = [new_draft(body=f"body {number % 2}") for number in range(MANY)]
    answers = submit_at_once(drafts)
    refused = [answer for answer in answers if not isinstance(answer, Accepted)]
    assert {(type(each), each.status) for each in refused} == {(IdempotencyKeyReused, 422)}
    assert len(refused) == MANY // 2
    (job_id,) = {answer.job_id for answer in answers if isinstance(answer, Accepted)}
    assert job_id in {draft.job_id for draft in drafts}
    assert stored() == ONE_JOB


def test_equal_requests_with_one_key_in_one_transaction_make_one_job(
    new_draft: NewDraft,
    submit_together: Callable[..., list[Answer]],
    stored: Callable[[], tuple[int, int, int, int]],
) -> None:
    first, again, other = new_draft(), new_draft(), new_draft(body="other")
    made, known, refused = submit_together(first, again, other)
    assert isinstance(made, Submitted)
    assert made.new is not None
    assert known == Submitted(first.job_id)
    assert isinstance(refused, IdempotencyKeyReused)
    assert stored() == ONE_JOB


def test_a_draft_whose_balance_is_locked_can_be_left_out_of_a_transaction(
    new_draft: NewDraft, database: Database, new_customer: Callable[[], Customer]
) -> None:
    mine = new_draft()
    other = replace(mine, account_id=new_customer().id, job_id=uuid7())
    with database.transaction() as holder:
        holder.get_one(Balance, other.account_id, with_for_update=True)
        with database.transaction() as session:
            answers = submit(session, [other, mine, other], wait=False)
    assert [answer and answer.job_id for answer in answers] == [None, mine.job_id, None]
    with database.transaction() as session:
        assert session.scalars(select(Job.id)).all() == [mine.job_id]


def test_a_request_refused_for_credit_does_not_take_its_key(
    new_draft: NewDraft,
    submit_together: Callable[..., list[Answer]],
    stored: Callable[[], tuple[int, int, int, int]],
) -> None:
    dear, cheap = new_draft(body="dear", max_tokens=CREDIT_MICROS), new_draft()
    refused, made = submit_together(dear, cheap)
    assert isinstance(refused, InsufficientCredit)
    assert isinstance(made, Submitted)
    assert made.new is not None
    assert stored() == ONE_JOB
    (late,) = submit_together(new_draft(body="dear", max_tokens=CREDIT_MICROS))
    assert isinstance(late, IdempotencyKeyReused)


def test_requests_together_spend_no_more_than_there_is(
    new_draft: NewDraft,
    submit_together: Callable[..., list[Answer]],
    stored: Callable[[], tuple[int, int, int, int]],
) -> None:
    half = (CREDIT_MICROS // 2 - 3) // 2
    answers = submit_together(*(new_draft(None, max_tokens=half) for _ in range(3)))
    assert [type(each) for each in answers] == [Submitted, Submitted, InsufficientCredit]
    assert stored()[:2] == (2, 2)


@pytest.mark.parametrize(("age", "stands"), [("23 hours 59 minutes", True), ("24 hours", False)])
def test_a_key_stands_for_its_job_for_24_hours(
    new_draft: NewDraft,
    submit_together: Callable[..., list[Answer]],
    database: Database,
    age: str,
    stands: bool,
) -> None:
    first, same, other = new_draft(), new_draft(), new_draft(body="other")
    submit_together(first)
    with database.transaction() as session:
        session.execute(
            text("UPDATE idempotency_keys SET created_at = now() - CAST(:age AS interval)"),
            {"age": age},
        )
    (answer,) = submit_together(other)
    if stands:
        assert isinstance(answer, IdempotencyKeyReused)
        assert submit_together(same) == [Submitted(first.job_id)]
    else:
        assert isinstance(answer, Submitted)
        assert answer.new is not None
        assert submit_together(new_draft(body="other")) == [Submitted(other.job_id)]
        (refused,) = submit_together(same)
        assert isinstance(refused, IdempotencyKeyReused)
