"""What a worker that is asked to stop does with the jobs that it cannot end in time."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from app.config import Settings
from app.db import Database
from app.jobs import rescue as rescue_module
from app.jobs import transition
from app.jobs.claim import claim
from app.jobs.handback import HandedBack, hand_back
from app.jobs.rescue import rescue
from app.jobs.states import Outcome
from app.jobs.transition import Lease
from tests import books
from tests.conftest import CREDIT_MICROS, Customer
from tests.integration.conftest import Submit
from workers.generate import generate
from workers.process import Process, compose

URL = "http://here"
RUN_OUT = "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE status = 'running'"


@pytest.fixture(autouse=True)
def balanced(database: Database, customer: Customer) -> Any:
    """The books are right after each test."""
    yield
    with database.transaction() as session:
        assert books.wrong(session, [customer.id]) == []


@pytest.fixture
def look(client: FlaskClient) -> Callable[[], dict[str, Any]]:
    """The only job, in full."""

    def read() -> dict[str, Any]:
        (found,) = client.get("/api/v1/jobs").get_json()["data"]
        return client.get(f"/api/v1/jobs/{found['id']}").get_json()

    return read


def outcomes(job: dict[str, Any]) -> list[str]:
    return [each["outcome"] for each in job["attempts"]]


def take(database: Database) -> Lease:
    with database.transaction() as session:
        (claimed,) = claim(session, [("fake", "1")], worker="w", lease_seconds=60, limit=1)
    return claimed.lease


def give_back(database: Database, *leases: Lease) -> HandedBack:
    with database.transaction() as session:
        return hand_back(session, leases, base_url=URL)


def lose(database: Database, max_attempts: int) -> None:
    with database.transaction() as session:
        session.execute(text(RUN_OUT))
        rescue(session, max_attempts=max_attempts, base_url=URL)


def test_a_job_claimed_when_the_engine_has_stopped_waits_for_another_worker_at_once(
    submit: Submit,
    look: Callable[[], dict[str, Any]],
    settings: Settings,
    process: Process,
    work: Callable[[], None],
) -> None:
    submit(max_tokens=5)
    process.close()
    work()
    job = look()
    assert (job["status"], job["charge"]["state"]) == ("queued", "held")
    assert outcomes(job) == ["handed_back"]
    assert process.broker.depth("generate.fake") == 2  # the submit's own, and the hand-back's

    other = compose(settings)
    other.serve(["generate.fake"], "other")
    generate(other, other.servings["generate.fake"])
    other.stop()
    other.database.close()
    job = look()
    assert (job["status"], job["charge"]["charged_micros"]) == ("succeeded", 3 * 1 + 5 * 2)
    assert [(each["number"], each["outcome"]) for each in job["attempts"]] == [
        (1, "handed_back"),
        (2, "succeeded"),
    ]


def test_a_hand_back_is_no_loss(
    submit: Submit, look: Callable[[], dict[str, Any]], database: Database
) -> None:
    submit()
    for _ in range(2):
        give_back(database, take(database))
    for _ in range(2):
        assert look()["status"] == "queued"
        take(database)
        lose(database, max_attempts=2)
    job = look()
    assert (job["status"], job["error"]["code"]) == ("failed", "worker_lost")
    assert job["error"]["message"].startswith("Its worker was lost 2 times")
    assert outcomes(job) == ["handed_back"] * 2 + ["lost"] * 2


def test_what_another_attempt_owns_cannot_be_handed_back(
    submit: Submit, look: Callable[[], dict[str, Any]], database: Database
) -> None:
    submit()
    zombie = take(database)
    lose(database, max_attempts=2)
    successor = take(database)
    assert give_back(database, zombie) == HandedBack([], [])
    assert (look()["status"], outcomes(look())) == ("running", ["lost", "running"])
    assert give_back(database, zombie, successor).waiting == [("fake", successor.job_id)]
    assert give_back(database, successor) == HandedBack([], [])
    assert (look()["status"], outcomes(look())) == ("queued", ["lost", "handed_back"])


def test_only_its_owner_can_put_a_job_back(
    submit: Submit, look: Callable[[], dict[str, Any]], database: Database
) -> None:
    submit()
    zombie = take(database)
    lose(database, max_attempts=2)
    take(database)
    with database.transaction() as session:
        transition.requeue(session, [zombie], Outcome.HANDED_BACK)
    assert (look()["status"], outcomes(look())) == ("running", ["lost", "running"])


def test_a_cancelled_job_is_not_handed_to_another_worker_but_ends_and_is_free(
    submit: Submit,
    client: FlaskClient,
    look: Callable[[], dict[str, Any]],
    database: Database,
) -> None:
    submit()
    lease = take(database)
    client.post(f"/api/v1/jobs/{lease.job_id}/cancel")
    answer = give_back(database, lease)
    assert (answer.waiting, [each.job_id for each in answer.ended]) == ([], [lease.job_id])
    job = look()
    assert (job["status"], job["charge"]["state"]) == ("cancelled", "released")
    assert outcomes(job) == ["handed_back"]
    balance = client.get("/api/v1/usage").get_json()["balance"]
    assert balance == {"available_micros": CREDIT_MICROS, "held_micros": 0}


def lose_engine(database: Database, lease: Lease, max_attempts: int = 3) -> HandedBack:
    with database.transaction() as session:
        return rescue_module.lose(session, [lease], max_attempts=max_attempts, base_url=URL)


def test_a_job_whose_engine_died_waits_for_another_at_once_and_ends_when_that_goes_on(
    submit: Submit, look: Callable[[], dict[str, Any]], database: Database
) -> None:
    submit()
    give_back(database, take(database))  # counts for nothing
    for _ in range(2):
        lease = take(database)
        answer = lose_engine(database, lease)
        assert (answer.waiting, answer.ended) == ([("fake", lease.job_id)], [])
        assert (look()["status"], look()["charge"]["state"]) == ("queued", "held")
    answer = lose_engine(database, take(database))
    assert (answer.waiting, len(answer.ended)) == ([], 1)
    job = look()
    assert (job["status"], job["charge"]["state"]) == ("failed", "released")
    assert job["error"]["code"] == "worker_lost"
    assert outcomes(job) == ["handed_back", "lost", "lost", "lost"]


def test_a_job_that_another_attempt_owns_cannot_be_lost_by_its_former_worker(
    submit: Submit, look: Callable[[], dict[str, Any]], database: Database
) -> None:
    submit()
    zombie = take(database)
    lose(database, max_attempts=3)
    take(database)
    assert lose_engine(database, zombie) == HandedBack([], [])
    assert (look()["status"], outcomes(look())) == ("running", ["lost", "running"])


def test_a_cancelled_job_whose_engine_died_is_not_started_again(
    submit: Submit, client: FlaskClient, look: Callable[[], dict[str, Any]], database: Database
) -> None:
    submit()
    lease = take(database)
    client.post(f"/api/v1/jobs/{lease.job_id}/cancel")
    answer = lose_engine(database, lease)
    assert (answer.waiting, [each.job_id for each in answer.ended]) == ([], [lease.job_id])
    assert (look()["status"], outcomes(look())) == ("cancelled", ["lost"])
