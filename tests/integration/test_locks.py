"""Transactions that meet: what they do to the same rows, they do one after the other, and none of
them is lost or waits for ever.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from app.api import create_app
from app.billing.prices import Usage
from app.billing.tables import Balance
from app.config import Settings
from app.db import Database
from app.jobs import ending, lease
from app.jobs.claim import claim
from app.jobs.ending import Ended
from app.jobs.finish import Result, succeeded
from app.jobs.rescue import rescue
from app.jobs.transition import Lease
from tests.conftest import Customer
from tests.integration.conftest import Submit

PATIENCE_SECONDS = 15
ROUNDS = 3
RESULT = Result(text="one two", finish_reason="stop", usage=Usage(3, 2))
URL = "http://here"


@pytest.fixture
def until_blocked(database: Database) -> Callable[[int], None]:
    """Wait until that many transactions wait for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    def wait(number: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with database.statement() as session:
                if session.scalar(waiting) == number:
                    return
            assert time.monotonic() < deadline
            time.sleep(0.005)

    return wait


@pytest.fixture(autouse=True)
def books_balance(database: Database) -> Iterator[None]:
    """After every test: what is held is what the jobs that have not ended hold, by account."""
    yield
    drift = text(
        """
        SELECT b.account_id FROM balances b WHERE b.held_micros <> (
            SELECT coalesce(sum(c.held_micros), 0) FROM charges c JOIN jobs j ON j.id = c.job_id
            WHERE c.account_id = b.account_id AND j.finished_at IS NULL)
        """
    )
    with database.transaction() as session:
        assert session.execute(drift).all() == []


def claim_some(session: Session, limit: int = 1) -> list[Lease]:
    claimed = claim(session, [("fake", "1")], worker="w", lease_seconds=60, limit=limit)
    return [each.lease for each in claimed]


def take_back(session: Session) -> None:
    session.execute(text("UPDATE jobs SET lease_until = now() - interval '1 second'"))
    rescue(session, max_attempts=9, base_url=URL)


def claim_and_take_back(session: Session) -> None:
    claim_some(session)
    take_back(session)


@pytest.mark.parametrize(
    ("before", "meanwhile", "status"),
    [
        ([], claim_some, "running"),
        ([], claim_and_take_back, "cancelled"),
        ([claim_some], take_back, "cancelled"),
    ],
)
def test_a_cancel_that_meets_a_claim_or_a_rescue_is_not_lost(
    submit: Submit,
    client: FlaskClient,
    database: Database,
    until_blocked: Callable[[int], None],
    before: Sequence[Callable[[Session], object]],
    meanwhile: Callable[[Session], object],
    status: str,
) -> None:
    job_id = UUID(submit().get_json()["id"])
    for step in before:
        with database.transaction() as session:
            step(session)
    with ThreadPoolExecutor(1) as threads:
        with database.transaction() as session:
            meanwhile(session)
            answer = threads.submit(client.post, f"/api/v1/jobs/{job_id}/cancel")
            until_blocked(1)
        assert answer.result().get_json()["status"] == status
    with database.transaction() as session:
        asked = session.scalar(text("SELECT cancel_requested_at IS NOT NULL FROM jobs"))
    assert asked == (status == "running")


@pytest.fixture
def clients(
    client_of: Callable[[Customer], FlaskClient], new_customer: Callable[[], Customer]
) -> tuple[FlaskClient, FlaskClient]:
    """Two accounts."""
    return client_of(new_customer()), client_of(new_customer())


@pytest.fixture
def running(database: Database) -> Callable[..., list[Lease]]:
    """Submit a job of each of these accounts and claim them all, in the order of their ids; or, as
    PostgreSQL comes across them in the table, in the opposite order.
    """

    def start(clients: Sequence[FlaskClient], *, reversed_in_table: bool = False) -> list[Lease]:
        for number, client in enumerate(clients):
            body = {
                "model": "fake",
                "prompt": "one two three",
                "max_tokens": 5,
                "webhook_url": "http://127.0.0.1:9/",
                "priority": number if reversed_in_table else 0,
            }
            assert client.post("/api/v1/generate", json=body).status_code == 202
        leases = []
        for _ in clients:
            with database.transaction() as session:
                leases += claim_some(session)
        assert len(leases) == len(clients)
        return sorted(leases, key=lambda each: each.job_id)

    return start


def end(
    database: Database, leases: Sequence[Lease], *, without: Sequence[str]
) -> list[Ended | None]:
    """End these jobs, and let PostgreSQL do ``without`` some ways of going through a table."""
    with database.transaction() as session:
        for way in without:
            session.execute(text(f"SET LOCAL enable_{way} = off"))
        ends = [succeeded(each, RESULT) for each in leases]
        return ending.end(session, ends, base_url=URL)


def end_in_order(database: Database, leases: Sequence[Lease]) -> list[Ended | None]:
    """End these jobs; where the statements ask for no order of rows, in the order given."""
    return end(database, leases, without=["hashjoin", "mergejoin", "seqscan", "bitmapscan"])


def end_as_in_table(database: Database, leases: Sequence[Lease]) -> list[Ended | None]:
    """End these jobs; where the statements ask for no order of rows, as they lie in the table."""
    return end(database, leases, without=["indexscan", "indexonlyscan"])


@pytest.mark.timeout(120)
def test_two_workers_that_end_the_same_jobs_in_opposite_order_do_not_deadlock(
    clients: tuple[FlaskClient, FlaskClient],
    running: Callable[..., list[Lease]],
    database: Database,
    until_blocked: Callable[[int], None],
) -> None:
    for _ in range(ROUNDS):
        leases = running([*clients, *clients])
        with ThreadPoolExecutor(2) as threads:
            with database.transaction() as session:
                lock_job(session, leases[0])
                one = threads.submit(end_in_order, database, leases)
                until_blocked(1)
                other = threads.submit(end_in_order, database, leases[::-1])
                until_blocked(2)
            assert one.result().count(None) == 0
            assert other.result() == [None] * 4


def lock_job(session: Session, held: Lease) -> None:
    """What both wait for, so that they go on at the same time."""
    session.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": held.job_id})


@pytest.mark.timeout(120)
def test_two_workers_that_end_jobs_of_the_same_accounts_in_opposite_order_do_not_deadlock(
    clients: tuple[FlaskClient, FlaskClient],
    running: Callable[..., list[Lease]],
    database: Database,
    until_blocked: Callable[[int], None],
) -> None:
    for _ in range(ROUNDS):
        leases = running([*clients, *clients[::-1]])
        with ThreadPoolExecutor(2) as threads:
            with database.transaction() as session:
                lock_balance_of(session, leases[0])
                one = threads.submit(end_in_order, database, leases[:2])
                until_blocked(1)
                other = threads.submit(end_in_order, database, leases[2:])
                until_blocked(2)
            assert [*one.result(), *other.result()].count(None) == 0


def lock_balance_of(session: Session, held: Lease) -> None:
    session.execute(
        text(
            "SELECT FROM balances WHERE account_id = "
            "(SELECT account_id FROM jobs WHERE id = :id) FOR UPDATE"
        ),
        {"id": held.job_id},
    )


def renew(database: Database, leases: Sequence[Lease]) -> set[Lease]:
    with database.transaction() as session:
        return lease.renew(session, set(leases), 60)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("renewed_first", [True, False])
def test_a_heartbeat_that_renews_jobs_while_they_end_does_not_deadlock(
    clients: tuple[FlaskClient, FlaskClient],
    running: Callable[..., list[Lease]],
    database: Database,
    until_blocked: Callable[[int], None],
    renewed_first: bool,
) -> None:
    first, second = (renew, end_as_in_table) if renewed_first else (end_as_in_table, renew)
    for _ in range(ROUNDS):
        leases = running([*clients, *clients, *clients], reversed_in_table=True)
        with ThreadPoolExecutor(2) as threads:
            with database.transaction() as session:
                lock_job(session, leases[0])
                answers = {first: threads.submit(first, database, leases)}
                until_blocked(1)
                answers[second] = threads.submit(second, database, leases)
                until_blocked(2)
            assert answers[end_as_in_table].result().count(None) == 0
            assert answers[renew].result() == (set(leases) if renewed_first else set())


@pytest.fixture
def other_api(settings: Settings) -> Iterator[Flask]:
    """Another process of the API."""
    app = create_app(settings)
    yield app
    app.extensions["gptqueue"].watchers.close()
    app.extensions["gptqueue"].database.close()


@pytest.mark.parametrize(("key", "statuses"), [({"Idempotency-Key": "k"}, [202]), ({}, [202, 402])])
def test_two_processes_do_not_spend_a_credit_or_a_key_twice(
    api: Flask,
    other_api: Flask,
    new_customer: Callable[..., Customer],
    database: Database,
    until_blocked: Callable[[int], None],
    key: dict[str, str],
    statuses: list[int],
) -> None:
    customer = new_customer(credit_micros=13)  # three words in, five tokens out: one job
    body = {"model": "fake", "prompt": "one two three", "max_tokens": 5}

    def post(app: Flask) -> TestResponse:
        headers = {**customer.headers, **key}
        return app.test_client().post("/api/v1/generate", json=body, headers=headers)

    with ThreadPoolExecutor(2) as threads:
        with database.transaction() as session:
            session.get_one(Balance, customer.id, with_for_update=True)
            asked = [threads.submit(post, app) for app in (api, other_api)]
            until_blocked(2)
        answers = [each.result() for each in asked]
    assert sorted({answer.status_code for answer in answers}) == statuses
    assert len({answer.get_json()["id"] for answer in answers if answer.status_code == 202}) == 1


def test_an_account_whose_balance_somebody_has_locked_holds_up_no_other_one(
    api: Flask,
    new_customer: Callable[..., Customer],
    database: Database,
    until_blocked: Callable[[int], None],
) -> None:
    locked, free = new_customer(), new_customer()
    body = {"model": "fake", "prompt": "one two three", "max_tokens": 5}

    def post(customer: Customer) -> int:
        answer = api.test_client().post("/api/v1/generate", json=body, headers=customer.headers)
        return answer.status_code

    with ThreadPoolExecutor(4) as threads:
        with database.transaction() as session:
            session.get_one(Balance, locked.id, with_for_update=True)
            held_up = [threads.submit(post, locked)]
            until_blocked(1)
            held_up += [threads.submit(post, locked) for _ in range(2)]
            assert [threads.submit(post, free).result(5) for _ in range(3)] == [202] * 3
            assert not any(each.done() for each in held_up)
        assert [each.result() for each in held_up] == [202] * 3
    assert post(locked) == 202
