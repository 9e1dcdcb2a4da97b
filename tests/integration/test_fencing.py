"""The lease: who owns a job, and what becomes of one whose owner went silent."""

from collections.abc import Callable
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.billing.prices import Usage
from app.db import Database
from app.errors import LeaseLost
from app.jobs import lease
from app.jobs.claim import Claimed, claim
from app.jobs.ending import Ended
from app.jobs.finish import Result, failed, succeeded
from app.jobs.finish import finish as finish_all
from app.jobs.requeue import take_missing
from app.jobs.rescue import rescue
from app.jobs.transition import End
from tests.conftest import CREDIT_MICROS

Submit = Callable[..., UUID]
RESULT = Result(text="one two", finish_reason="stop", usage=Usage(3, 2))
URL = "http://here"


@pytest.fixture
def submit(client: FlaskClient) -> Submit:
    """Submit a job through the API."""

    def submit_one(**body: object) -> UUID:
        body = {"model": "fake", "prompt": "one two three", "max_tokens": 5, **body}
        answer = client.post("/api/v1/generate", json=body)
        assert answer.status_code == 202, answer.json
        return UUID(answer.json["id"])

    return submit_one


def take(database: Database, worker: str = "w1", lease_seconds: float = 60) -> Claimed | None:
    with database.transaction() as session:
        return next(iter(claim_some(session, worker, lease_seconds)), None)


def claim_some(
    session: Session, worker: str, lease_seconds: float = 60, version: str = "1", limit: int = 1
) -> list[Claimed]:
    return claim(
        session,
        [("fake", version)],
        worker=worker,
        lease_seconds=lease_seconds,
        limit=limit,
    )


def finish(database: Database, *ends: End) -> list[Ended | LeaseLost]:
    with database.transaction() as session:
        return finish_all(session, ends, base_url=URL)


def run_out(database: Database) -> None:
    """Let every lease end now."""
    with database.transaction() as session:
        session.execute(
            text(
                "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE status = 'running'"
            )
        )


def rescue_all(database: Database, max_attempts: int = 3) -> int:
    with database.transaction() as session:
        return len(rescue(session, max_attempts=max_attempts, base_url=URL) or [])


def test_jobs_are_claimed_by_priority_and_then_by_age(submit: Submit, database: Database) -> None:
    first, second, urgent = submit(), submit(), submit(priority=1)
    claimed = [take(database) for _ in range(4)]
    assert [each.lease.job_id for each in claimed[:3] if each] == [urgent, first, second]
    assert claimed[3] is None


def test_two_workers_never_claim_the_same_job(submit: Submit, database: Database) -> None:
    submit()
    with database.transaction() as one, database.transaction() as two:
        assert len(claim_some(one, "w1", limit=2)) == 1
        assert claim_some(two, "w2", limit=2) == []


def test_a_worker_of_another_version_leaves_the_job_alone(
    submit: Submit, database: Database
) -> None:
    submit()
    with database.transaction() as session:
        assert claim_some(session, "w", version="2") == []


def test_a_zombie_that_finishes_after_its_job_was_rescued_changes_nothing(
    submit: Submit, database: Database, client: FlaskClient
) -> None:
    job_id = submit(webhook_url="http://127.0.0.1:9/hook")
    zombie = take(database, "zombie")
    assert zombie
    run_out(database)
    assert rescue_all(database) == 0
    successor = take(database, "successor")
    assert successor
    assert (successor.lease.job_id, successor.lease.attempt) == (job_id, 2)

    late = finish(
        database, succeeded(zombie.lease, RESULT), failed(zombie.lease, code="x", message="x")
    )
    assert [type(each) for each in late] == [LeaseLost, LeaseLost]

    job = client.get(f"/api/v1/jobs/{job_id}").json
    assert (job["status"], job["output"], job["charge"]["state"]) == ("running", None, "held")
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM webhook_deliveries")) == 0
        assert session.scalar(text("SELECT count(*) FROM transfers WHERE kind = 'charge'")) == 0

    late, ended = finish(
        database, succeeded(zombie.lease, RESULT), succeeded(successor.lease, RESULT)
    )
    assert isinstance(late, LeaseLost)
    assert isinstance(ended, Ended)
    job = client.get(f"/api/v1/jobs/{job_id}").json
    assert [each["outcome"] for each in job["attempts"]] == ["lost", "succeeded"]
    assert job["charge"]["charged_micros"] == 3 * 1 + 2 * 2


def discarded(client: FlaskClient) -> int:
    """What the metrics say."""
    (line,) = [
        each
        for each in client.get("/api/v1/metrics").text.splitlines()
        if each.startswith("gptqueue_results_discarded_total ")
    ]
    return int(float(line.split()[1]))


def test_each_result_of_a_zombie_is_counted_once_and_nothing_else_is(
    submit: Submit, database: Database, client: FlaskClient
) -> None:
    submit(), submit()
    zombies = [take(database), take(database)]
    run_out(database)
    rescue_all(database)
    successors = [take(database), take(database)]
    assert discarded(client) == 0
    for number, zombie in enumerate(zombies, start=1):
        assert zombie
        finish(database, succeeded(zombie.lease, RESULT))
        assert discarded(client) == number
    for _ in range(2):  # the second time, the end is refused because it took place already
        finish(database, *[succeeded(each.lease, RESULT) for each in successors if each])
    assert discarded(client) == 2


def test_a_zombie_whose_job_was_given_up_is_counted_too(
    submit: Submit, database: Database, client: FlaskClient
) -> None:
    submit()
    zombie = take(database)
    assert zombie
    run_out(database)
    assert rescue_all(database, max_attempts=1) == 1
    finish(database, failed(zombie.lease, code="x", message="x"))
    assert discarded(client) == 1


def test_finishing_twice_charges_once(submit: Submit, database: Database) -> None:
    submit()
    claimed = take(database)
    assert claimed
    first, second = (finish(database, succeeded(claimed.lease, RESULT))[0] for _ in range(2))
    assert isinstance(first, Ended)
    assert isinstance(second, LeaseLost)


def test_renewing_tells_which_leases_are_still_held(submit: Submit, database: Database) -> None:
    submit()
    submit()
    kept, lost = take(database), take(database)
    assert kept
    assert lost
    finish(database, succeeded(lost.lease, RESULT))
    with database.transaction() as session:
        still = lease.renew(session, [kept.lease, lost.lease], 60)
    assert still == {kept.lease}


def test_a_renewed_lease_is_not_rescued(submit: Submit, database: Database) -> None:
    submit()
    claimed = take(database)
    assert claimed
    run_out(database)
    with database.transaction() as session:
        lease.renew(session, [claimed.lease], 60)
    rescue_all(database)
    (ended,) = finish(database, succeeded(claimed.lease, RESULT))
    assert isinstance(ended, Ended)


def test_a_job_that_keeps_losing_its_worker_is_failed_and_its_hold_released(
    submit: Submit, database: Database, client: FlaskClient
) -> None:
    job_id = submit()
    for _ in range(3):
        assert take(database)
        run_out(database)
        rescue_all(database)
    assert take(database) is None
    job = client.get(f"/api/v1/jobs/{job_id}").json
    assert (job["status"], job["error"]["code"]) == ("failed", "worker_lost")
    assert job["charge"]["state"] == "released"
    assert [each["outcome"] for each in job["attempts"]] == ["lost"] * 3
    balance = client.get("/api/v1/usage").json["balance"]
    assert balance == {"available_micros": CREDIT_MICROS, "held_micros": 0}


def test_a_cancelled_job_whose_worker_died_ends_as_cancelled_and_free(
    submit: Submit, database: Database, client: FlaskClient
) -> None:
    job_id = submit()
    take(database)
    assert client.post(f"/api/v1/jobs/{job_id}/cancel").json["status"] == "running"
    run_out(database)
    assert rescue_all(database) == 1
    job = client.get(f"/api/v1/jobs/{job_id}").json
    assert (job["status"], job["charge"]["state"]) == ("cancelled", "released")


def test_as_many_messages_are_sent_again_as_the_queue_is_short_of(
    submit: Submit, database: Database
) -> None:
    ids = [submit() for _ in range(3)]
    with database.transaction() as session:
        assert take_missing(session, {"fake": 3}, grace_seconds=0) == {}
        assert take_missing(session, {"fake": 0}, grace_seconds=60) == {"fake": []}
    with database.transaction() as session:
        missing = take_missing(session, {"fake": 1}, grace_seconds=0)
    assert set(missing["fake"]) == set(ids[:2])


def test_a_rescued_job_gets_its_message_without_waiting_for_the_grace(
    submit: Submit, database: Database
) -> None:
    job_id = submit()
    with database.transaction() as session:
        session.execute(text("UPDATE jobs SET created_at = now() - interval '1 minute'"))
    take(database)
    run_out(database)
    rescue_all(database)
    with database.transaction() as session:
        assert take_missing(session, {}, grace_seconds=10) == {"fake": [job_id]}
