"""What a worker or a customer must not be able to do to another: a test for each guard."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import Database
from app.jobs import lease
from app.jobs.claim import Claimed, claim
from app.jobs.rescue import rescue
from app.jobs.tables import Job
from app.webhooks import outbox
from app.webhooks.parcels import Answer, Parcel
from app.webhooks.tables import Delivery
from tests.conftest import Customer
from tests.integration.conftest import Submit
from workers.engines.base import FinishReason, Generation
from workers.generate import generate
from workers.process import Process, compose

PATIENCE_SECONDS = 15
URL = "http://here"


def claim_one(session: Session, worker: str) -> Claimed:
    (claimed,) = claim(session, [("fake", "1")], worker=worker, lease_seconds=60, limit=1)
    return claimed


def rescue_lost(session: Session) -> None:
    """Let every lease end now, and take the jobs back."""
    run_out(session)
    rescue(session, max_attempts=9, base_url=URL)


def run_out(session: Session) -> None:
    session.execute(
        text("UPDATE jobs SET lease_until = now() - interval '1 second' WHERE status = 'running'")
    )


def lease_until(database: Database, job_id: UUID) -> datetime | None:
    with database.transaction() as session:
        return session.get_one(Job, job_id).lease_until


def outcomes(client: FlaskClient, job_id: UUID) -> list[str]:
    job = client.get(f"/api/v1/jobs/{job_id}").get_json()
    return [each["outcome"] for each in job["attempts"]]


def test_usage_is_of_the_accounts_own_jobs(
    client_of: Callable[[Customer], FlaskClient],
    new_customer: Callable[[], Customer],
    work: Callable[[], None],
) -> None:
    one, other = client_of(new_customer()), client_of(new_customer())
    for client, prompt in ((one, "one"), (other, "one two"), (other, "one two three")):
        body = {"model": "fake", "prompt": prompt, "max_tokens": 1}
        assert client.post("/api/v1/generate", json=body).status_code == 202
        work()
    for client, requests, tokens in ((one, 1, 1), (other, 2, 5)):
        usage = client.get("/api/v1/usage").get_json()
        total = {
            "requests": requests,
            "prompt_tokens": tokens,
            "completion_tokens": requests,
            "charged_micros": tokens + 2 * requests,
        }
        assert usage["total"] == total
        assert [day["requests"] for day in usage["data"]] == [requests]
    with_nothing = client_of(new_customer()).get("/api/v1/usage").get_json()
    assert with_nothing["data"] == []


def test_a_zombie_does_not_renew_the_lease_of_its_successor(
    submit: Submit, database: Database, client: FlaskClient
) -> None:
    submit()
    with database.transaction() as session:
        zombie = claim_one(session, "zombie").lease
        rescue_lost(session)
        successor = claim_one(session, "successor").lease
        run_out(session)
    assert (successor.job_id, successor.attempt) == (zombie.job_id, 2)
    before = lease_until(database, zombie.job_id)
    with database.transaction() as session:
        assert lease.renew(session, [zombie], 60) == set()
    assert lease_until(database, zombie.job_id) == before
    # So the successor, which has died as well, is found to be dead.
    with database.transaction() as session:
        rescue(session, max_attempts=9, base_url=URL)
    assert outcomes(client, zombie.job_id) == ["lost", "lost"]


def test_a_zombie_does_not_hear_of_the_cancel_of_its_successors_job(
    submit: Submit, database: Database, client: FlaskClient
) -> None:
    submit()
    with database.transaction() as session:
        zombie = claim_one(session, "zombie").lease
        rescue_lost(session)
        successor = claim_one(session, "successor").lease
    client.post(f"/api/v1/jobs/{zombie.job_id}/cancel")
    with database.transaction() as session:
        assert lease.cancelled(session, [zombie]) == set()
        assert lease.cancelled(session, [zombie, successor]) == {zombie.job_id}


@pytest.fixture
def hanging(settings: Settings) -> Iterator[Process]:
    """A worker process whose engine never ends a job by itself."""
    catalog = settings.catalog_file.read_text()
    settings.catalog_file.write_text(catalog.replace('"fake:"', '"fake:hang_every=1"'))
    process = compose(settings)
    process.serve(["generate.fake"], "worker-test")
    yield process
    process.stop()
    process.database.close()


def test_an_engine_ends_a_job_whose_lease_is_lost(
    submit: Submit, hanging: Process, database: Database, client: FlaskClient
) -> None:
    job_id = UUID(submit().get_json()["id"])
    serving = hanging.servings["generate.fake"]
    worker = threading.Thread(target=generate, args=(hanging, serving))
    worker.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while outcomes(client, job_id) != ["running"]:
        assert time.monotonic() < deadline
    with database.transaction() as session:
        rescue_lost(session)
        claim_one(session, "successor")
    # More than once: the job may have been claimed, but not be in the engine yet.
    while worker.is_alive() and time.monotonic() < deadline:
        serving.heartbeat.beat()
        worker.join(0.05)
    assert not worker.is_alive()
    assert outcomes(client, job_id) == ["lost", "running"]


def test_a_nul_that_a_model_writes_is_replaced_and_the_job_succeeds(
    submit: Submit,
    process: Process,
    work: Callable[[], None],
    client: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = Generation(
        text="\x00a\x00b", finish_reason=FinishReason.STOP, prompt_tokens=3, completion_tokens=2
    )
    monkeypatch.setattr(process.servings["generate.fake"], "run", lambda _: written)
    job_id = submit(webhook_url="http://127.0.0.1:9/").get_json()["id"]
    work()
    job = client.get(f"/api/v1/jobs/{job_id}").get_json()
    assert (job["status"], job["charge"]["state"]) == ("succeeded", "charged")
    assert job["output"]["text"] == "\ufffda\ufffdb"


@pytest.fixture
def twice_claimed(customer: Customer, database: Database) -> tuple[Parcel, Parcel]:
    """One delivery as it was claimed by a sender, and by another when that one's time was up."""
    event = outbox.Event(
        account_id=customer.id,
        job_id=uuid4(),
        type="job.succeeded",
        url="http://127.0.0.1:9/",
        body="{}",
    )
    with database.transaction() as session:
        outbox.record(session, [event])
    parcels = []
    for _ in range(2):
        with database.transaction() as session:
            session.execute(update(Delivery).values(next_attempt_at=text("now()")))
            claimed = outbox.claim(session, limit=1, room=lambda host: 1, lease_seconds=30)
            parcels += claimed.parcels
    first, second = parcels
    assert (first.id, first.attempt, second.attempt) == (second.id, 1, 2)
    return first, second


@pytest.mark.parametrize("status", [200, 410, 500])
def test_a_sender_that_was_replaced_marks_nothing_while_the_other_is_sending(
    twice_claimed: tuple[Parcel, Parcel], database: Database, status: int
) -> None:
    first, second = twice_claimed

    def marked(parcel: Parcel, status: int) -> tuple[str | None, str, int | None]:
        with database.transaction() as session:
            (written,) = outbox.mark(session, [(parcel, Answer(status=status))], lease_seconds=30)
            delivery = session.scalars(select(Delivery)).one()
            return written, delivery.state, delivery.last_status

    assert marked(first, status) == (None, "pending", None)
    assert marked(second, 204) == ("delivered", "delivered", 204)
    assert marked(first, status) == (None, "delivered", 204)


def test_a_result_that_cannot_be_stored_fails_the_job_and_releases_its_hold(
    submit: Submit, work: Callable[[], None], client: FlaskClient, database: Database
) -> None:
    job_id = submit().get_json()["id"]
    with database.transaction() as session:
        session.execute(text("ALTER TABLE outputs ADD CHECK (job_id IS NULL) NOT VALID"))
    work()
    job = client.get(f"/api/v1/jobs/{job_id}").get_json()
    assert (job["status"], job["charge"]["state"]) == ("failed", "released")
    assert job["error"]["code"] == "internal_error"
