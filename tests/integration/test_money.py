"""Who pays, and that the books agree after each way a job can end."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from app.billing.prices import Usage
from app.config import Settings
from app.db import Database
from app.jobs.claim import Claimed, claim
from app.jobs.ending import Ended
from app.jobs.expire import expire_queued
from app.jobs.finish import Result, failed, finish, succeeded
from app.jobs.transition import End
from tests.conftest import CREDIT_MICROS, Customer
from workers.generate import generate
from workers.process import compose

URL = "http://here"
HELD = 3 * 1 + 5 * 2  # three words in, five tokens out, at one and two micros


@pytest.fixture
def job(client: FlaskClient) -> UUID:
    """A queued job that holds 13 micros."""
    body = {"model": "fake", "prompt": "one two three", "max_tokens": 5}
    return UUID(client.post("/api/v1/generate", json=body).json["id"])


@pytest.fixture
def running(job: UUID, database: Database) -> Claimed:
    """The same job, claimed."""
    with database.transaction() as session:
        (claimed,) = claim_one(session)
    return claimed


def claim_one(session: Session) -> list[Claimed]:
    return claim(session, [("fake", "1")], worker="w", lease_seconds=60, limit=1)


def finish_one(database: Database, end: End) -> None:
    with database.transaction() as session:
        (ended,) = finish(session, [end], base_url=URL)
    assert isinstance(ended, Ended)


@pytest.fixture(autouse=True)
def books_balance(database: Database) -> Iterator[None]:
    """After every test: balances equal what the transfers add up to, and no hold outlives a job."""
    yield
    drift = text(
        """
        SELECT b.account_id FROM balances b WHERE
            b.available_micros <> (SELECT coalesce(sum(CASE WHEN t.credit = 'available'
                THEN t.amount_micros WHEN t.debit = 'available' THEN -t.amount_micros END), 0)
                FROM transfers t WHERE t.account_id = b.account_id)
            OR b.held_micros <> (SELECT coalesce(sum(CASE WHEN t.credit = 'held'
                THEN t.amount_micros WHEN t.debit = 'held' THEN -t.amount_micros END), 0)
                FROM transfers t WHERE t.account_id = b.account_id)
        """
    )
    orphans = text(
        "SELECT j.id FROM jobs j JOIN charges c ON c.job_id = j.id "
        "WHERE (j.finished_at IS NULL) <> (c.state = 'held')"
    )
    with database.transaction() as session:
        assert session.execute(drift).all() == []
        assert session.execute(orphans).all() == []


def ending(reason: str, completion_tokens: int = 2) -> Result:
    """What an engine says when a job ends for this reason."""
    return Result(text="a b", finish_reason=reason, usage=Usage(3, completion_tokens))


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("stop", "succeeded"),
        ("length", "succeeded"),
        ("cancelled", "cancelled"),
        ("deadline", "expired"),
    ],
)
def test_what_was_generated_is_charged_and_the_rest_of_the_hold_released(
    running: Claimed, database: Database, client: FlaskClient, reason: str, status: str
) -> None:
    finish_one(database, succeeded(running.lease, ending(reason)))
    job = client.get(f"/api/v1/jobs/{running.lease.job_id}").json
    assert job["status"] == status
    assert job["charge"] == {
        "state": "charged",
        "held_micros": HELD,
        "charged_micros": 3 * 1 + 2 * 2,
        "currency": "USD",
        "price": {
            "input_micros_per_million_tokens": 1_000_000,
            "output_micros_per_million_tokens": 2_000_000,
        },
    }
    usage = client.get("/api/v1/usage").json
    assert usage["total"]["charged_micros"] == 7
    assert usage["balance"] == {"available_micros": CREDIT_MICROS - 7, "held_micros": 0}


def test_a_failed_job_costs_nothing(
    running: Claimed, database: Database, client: FlaskClient
) -> None:
    finish_one(database, failed(running.lease, code="engine_failed", message="It broke."))
    job = client.get(f"/api/v1/jobs/{running.lease.job_id}").json
    assert (job["status"], job["charge"]["state"]) == ("failed", "released")
    assert job["error"] == {"code": "engine_failed", "message": "It broke."}
    assert client.get("/api/v1/usage").json["balance"]["available_micros"] == CREDIT_MICROS


def test_a_job_cancelled_before_it_started_costs_nothing(job: UUID, client: FlaskClient) -> None:
    cancelled = client.post(f"/api/v1/jobs/{job}/cancel").json
    assert (cancelled["status"], cancelled["charge"]["state"]) == ("cancelled", "released")


def test_a_job_whose_deadline_passed_before_it_started_costs_nothing(
    job: UUID, client: FlaskClient, database: Database
) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE jobs SET deadline_at = now() - interval '1 second'"))
    with database.transaction() as session:
        assert claim_one(session) == []
        assert len(expire_queued(session, base_url=URL, fresh_seconds=15)) == 1
    expired = client.get(f"/api/v1/jobs/{job}").json
    assert (expired["status"], expired["charge"]["state"]) == ("expired", "released")
    assert expired["error"]["code"] == "deadline_before_start"


def test_a_charge_never_exceeds_its_hold(
    running: Claimed, database: Database, client: FlaskClient
) -> None:
    finish_one(database, succeeded(running.lease, ending("stop", completion_tokens=50)))
    job = client.get(f"/api/v1/jobs/{running.lease.job_id}").json
    assert job["charge"]["charged_micros"] == HELD


def test_a_result_that_cannot_be_stored_charges_nothing(
    running: Claimed, database: Database, client: FlaskClient
) -> None:
    broken = Result(text="a\x00b", finish_reason="stop", usage=Usage(3, 2))
    with pytest.raises(DataError):
        finish_one(database, succeeded(running.lease, broken))
    job = client.get(f"/api/v1/jobs/{running.lease.job_id}").json
    assert (job["status"], job["charge"]["state"]) == ("running", "held")


def test_credit_for_ten_jobs_accepts_ten_of_many_at_once(
    client_of: Callable[[Customer], FlaskClient], new_customer: Callable[..., Customer]
) -> None:
    customer = new_customer(credit_micros=10 * HELD)
    body = {"model": "fake", "prompt": "one two three", "max_tokens": 5}

    def post(_: int) -> int:
        return client_of(customer).post("/api/v1/generate", json=body).status_code

    with ThreadPoolExecutor(16) as threads:
        statuses = Counter(threads.map(post, range(200)))
    assert statuses == {202: 10, 402: 190}
    usage = client_of(customer).get("/api/v1/usage").json
    assert usage["balance"] == {"available_micros": 0, "held_micros": 10 * HELD}


def test_the_price_is_the_one_at_submit_also_when_the_catalog_changes(
    job: UUID, settings: Settings, client: FlaskClient
) -> None:
    prices = settings.catalog_file.read_text()
    settings.catalog_file.write_text(prices.replace("1_000_000", "9_000_000"))
    process = compose(settings)
    process.serve(["generate.fake"], "w")
    generate(process, process.servings["generate.fake"])
    process.stop()
    process.database.close()
    charge = client.get(f"/api/v1/jobs/{job}").json["charge"]
    assert charge["charged_micros"] == HELD
    assert charge["price"]["input_micros_per_million_tokens"] == 1_000_000
