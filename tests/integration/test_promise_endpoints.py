"""An endpoint that is gone, or fails for five days, gets nothing more; its owner is told why."""

import threading
from datetime import timedelta
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select, text, update

from app.db import Database
from app.webhooks import endpoints, outbox
from app.webhooks.outbox import Event
from app.webhooks.parcels import Answer, Parcel
from app.webhooks.tables import Delivery, Endpoint
from tests.conftest import Customer
from tests.integration.conftest import Deliver, Receiver, Submit
from workers.process import Process

GONE = "The endpoint is disabled: it answered 410."
FAILING = "The endpoint is disabled: nothing succeeded there for five days."
LEASE = 30


def record(database: Database, customer: Customer, url: str, number: int = 1) -> None:
    """Events that wait."""
    with database.transaction() as session:
        outbox.record(
            session,
            [
                Event(account_id=customer.id, job_id=uuid4(), type="job.failed", url=url, body="{}")
                for _ in range(number)
            ],
        )


def claim(database: Database, limit: int = 10) -> list[Parcel]:
    with database.transaction() as session:
        claimed = outbox.claim(session, limit=limit, room=lambda _: 1000, lease_seconds=LEASE)
        return sorted(claimed.parcels, key=lambda parcel: parcel.id)


def mark(database: Database, *sent: tuple[Parcel, Answer]) -> list[str | None]:
    with database.transaction() as session:
        return list(outbox.mark(session, sent, lease_seconds=LEASE))


def states(database: Database) -> list[tuple[str, int, str | None]]:
    """State, attempts and reason of each delivery, the oldest first."""
    query = select(Delivery.state, Delivery.attempts, Delivery.last_error).order_by(Delivery.id)
    with database.transaction() as session:
        return [tuple(row) for row in session.execute(query)]


def pass_time(database: Database, days: float) -> None:
    """Move the clock: everything that was noted is so much older."""
    past = timedelta(days=days)
    with database.transaction() as session:
        session.execute(update(Delivery).values(next_attempt_at=Delivery.next_attempt_at - past))
        session.execute(update(Endpoint).values(failing_since=Endpoint.failing_since - past))


def endpoint(database: Database) -> Endpoint | None:
    with database.transaction() as session:
        return session.scalars(select(Endpoint)).one_or_none()


def test_a_410_disables_the_endpoint_at_once_and_says_so_everywhere(
    pending: Receiver,
    submit: Submit,
    attempt: Deliver,
    client: FlaskClient,
    process: Process,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pending.answers = [(410, {})]
    assert attempt().last_error == GONE
    job = client.get("/api/v1/jobs").get_json()["data"][0]
    assert job["webhook"] == {
        "state": "abandoned",
        "attempts": 1,
        "last_status": 410,
        "last_error": GONE,
        "next_attempt": None,
    }
    (told,) = client.get("/api/v1/webhooks/disabled").get_json()["data"]
    assert (told["url"], told["reason"]) == (pending.url, "gone")
    metrics = client.get("/api/v1/metrics").text
    assert 'gptqueue_webhook_endpoints_disabled{reason="gone"} 1.0' in metrics
    assert 'gptqueue_webhook_endpoints_disabled{reason="failing"} 0.0' in metrics
    (logged,) = [each for each in caplog.records if "webhook_endpoint_disabled" in str(each.msg)]
    assert logged.levelname == "WARNING"
    later = submit(webhook_url=pending.url).get_json()
    client.post(f"/api/v1/jobs/{later['id']}/cancel")
    process.courier.deliver_due()
    process.courier.settle()
    shown = client.get(f"/api/v1/jobs/{later['id']}").get_json()["webhook"]
    assert (shown["state"], shown["attempts"], shown["last_error"]) == ("abandoned", 0, GONE)
    assert len(pending.received) == 1


def test_five_days_of_failure_disable_the_endpoint_and_not_a_moment_less(
    database: Database, customer: Customer
) -> None:
    record(database, customer, "http://there/", 5)
    for days, state in [(0, "pending"), (4.9999, "pending"), (0.0001, "abandoned")]:
        pass_time(database, days)
        (parcel, *_) = claim(database, 1)
        assert mark(database, (parcel, Answer(status=500))) == [state]
    # The others are given up with it.
    assert [state for state, _, _ in states(database)] == ["abandoned"] * 5
    assert {reason for _, _, reason in states(database)} == {FAILING}
    found = endpoint(database)
    assert found
    assert found.disabled_reason == "failing"


def test_a_success_ends_the_five_days(database: Database, customer: Customer) -> None:
    record(database, customer, "http://there/", 4)
    first, second = claim(database, 2)
    assert not second.failing
    mark(database, (first, Answer(error="TimeoutError")))
    pass_time(database, 4.9)
    (third,) = claim(database, 1)
    assert third.failing
    mark(database, (third, Answer(status=200)))
    found = endpoint(database)
    assert found
    assert found.failing_since is None
    pass_time(database, 4.9)
    (fourth, *_) = claim(database, 1)
    assert not fourth.failing
    assert mark(database, (fourth, Answer(status=500))) == ["pending"]
    found = endpoint(database)
    assert found
    assert (found.failing_since is not None, found.disabled_at) == (True, None)


def test_an_endpoint_that_never_fails_leaves_no_trace(
    database: Database, customer: Customer
) -> None:
    record(database, customer, "http://there/")
    mark(database, *[(each, Answer(status=204)) for each in claim(database)])
    assert endpoint(database) is None


def test_only_that_url_of_that_account_is_disabled(
    database: Database, customer: Customer, new_customer: type[Customer]
) -> None:
    other = new_customer()
    record(database, customer, "http://there/a")
    (parcel,) = claim(database)
    record(database, customer, "http://there/b")
    record(database, other, "http://there/a")
    mark(database, (parcel, Answer(status=410)))
    assert [state for state, _, _ in states(database)] == ["abandoned", "pending", "pending"]
    assert len(claim(database)) == 2


def test_what_is_in_flight_when_its_endpoint_is_disabled_ends_as_it_is_answered(
    database: Database, customer: Customer
) -> None:
    record(database, customer, "http://there/", 3)
    gone, accepted, refused = claim(database)
    record(database, customer, "http://there/")
    mark(database, (gone, Answer(status=410)))
    assert [state for state, _, _ in states(database)] == [
        "abandoned",
        "pending",
        "pending",
        "abandoned",
    ]
    answers = [(accepted, Answer(status=200)), (refused, Answer(status=500))]
    assert mark(database, *answers) == ["delivered", "abandoned"]
    assert states(database)[2] == ("abandoned", 1, GONE)


def test_more_than_one_look_holds_of_a_disabled_endpoint_is_no_obstacle(
    database: Database, customer: Customer
) -> None:
    record(database, customer, "http://gone/")
    mark(database, *[(each, Answer(status=410)) for each in claim(database)])
    record(database, customer, "http://gone/", 50)
    record(database, customer, "http://there/", 2)
    assert [parcel.url for parcel in claim(database, 5)] == ["http://there/"] * 2
    assert [state for state, _, _ in states(database)] == ["abandoned"] * 51 + ["pending"] * 2


def test_an_enabled_endpoint_gets_the_next_event(
    pending: Receiver, submit: Submit, attempt: Deliver, client: FlaskClient, process: Process
) -> None:
    pending.answers = [(410, {})]
    attempt()
    body = {"url": pending.url}
    other = client.post("/api/v1/webhooks/enable", json={"url": "http://elsewhere/"})
    assert [each["url"] for each in other.get_json()["data"]] == [pending.url]
    for _ in range(2):
        enabled = client.post("/api/v1/webhooks/enable", json=body)
        assert (enabled.status_code, enabled.get_json()) == (200, {"data": []})
    later = submit(webhook_url=pending.url).get_json()
    client.post(f"/api/v1/jobs/{later['id']}/cancel")
    process.courier.deliver_due()
    process.courier.settle()
    shown = client.get(f"/api/v1/jobs/{later['id']}").get_json()["webhook"]
    assert (shown["state"], shown["last_status"]) == ("delivered", 200)


def test_another_account_can_neither_see_nor_enable_it(
    pending: Receiver,
    attempt: Deliver,
    client: FlaskClient,
    client_of: type[FlaskClient],
    new_customer: type[Customer],
) -> None:
    pending.answers = [(410, {})]
    attempt()
    stranger = client_of(new_customer())
    assert stranger.get("/api/v1/webhooks/disabled").get_json() == {"data": []}
    stranger.post("/api/v1/webhooks/enable", json={"url": pending.url})
    assert len(client.get("/api/v1/webhooks/disabled").get_json()["data"]) == 1


def test_couriers_that_mark_the_same_endpoints_at_once_do_not_wait_for_each_other_in_a_circle(
    database: Database, customer: Customer
) -> None:
    urls = [f"http://there/{number}" for number in range(40)]
    for url in urls * 10:
        record(database, customer, url, 4)
    parcels = claim(database, 1600)  # 4 of each URL, ten times
    gate = threading.Barrier(4)
    faults: list[Exception] = []

    def run(part: int) -> None:
        gate.wait()
        try:
            for start in range(0, len(parcels), 160):
                some = parcels[start + part : start + 160 : 4][:: 1 if part % 2 else -1]
                mark(database, *[(each, Answer(status=500)) for each in some])
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=run, args=[part]) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Endpoint)) == len(urls)


def test_a_url_as_long_as_they_may_be_can_fail(database: Database, customer: Customer) -> None:
    with database.transaction() as session:
        noise = session.scalar(
            text("SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 70)")
        )
    url = f"http://there/{noise}"[:2048]
    record(database, customer, url)
    mark(database, *[(each, Answer(status=500)) for each in claim(database)])
    with database.transaction() as session:
        assert endpoints.disabled(session, customer.id) == []
    assert endpoint(database)
