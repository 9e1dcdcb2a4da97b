"""The schedule of deliveries to the microsecond, on a clock that the test moves."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import uuid4

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db import Database
from app.webhooks import outbox
from app.webhooks.outbox import Event
from app.webhooks.parcels import Answer, Parcel
from app.webhooks.tables import Delivery
from tests.conftest import Customer
from tests.integration.conftest import Deliver, Receiver

SCHEDULE = [
    timedelta(0),
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    *(timedelta(hours=hours) for hours in (2, 5, 10, 14, 20, 24)),
]
MOMENT = timedelta(microseconds=1)


def claim(session: Session) -> list[Parcel]:
    return outbox.claim(session, limit=5, room=lambda _: 5, lease_seconds=30).parcels


def pass_time(session: Session, time: timedelta) -> None:
    """In one transaction now() stands still; so what is due comes nearer instead."""
    session.execute(update(Delivery).values(next_attempt_at=Delivery.next_attempt_at - time))


def record(session: Session, customer: Customer) -> None:
    url, job = "http://there/", uuid4()
    event = Event(account_id=customer.id, job_id=job, type="job.failed", url=url, body="{}")
    outbox.record(session, [event])


@pytest.mark.parametrize("status", [500, 302, None])
def test_each_attempt_is_due_at_its_time_and_not_a_moment_before(
    database: Database, customer: Customer, status: int | None
) -> None:
    answer = Answer(status=status, error=None if status else "TimeoutError")
    with database.transaction() as session:
        record(session, customer)
        for number, wait in enumerate(SCHEDULE, start=1):
            if wait:
                pass_time(session, wait - MOMENT)
                assert claim(session) == []
                pass_time(session, MOMENT)
            (parcel,) = claim(session)
            assert parcel.attempt == number
            (state,) = outbox.mark(session, [(parcel, answer)], lease_seconds=30)
            assert state == ("abandoned" if number == 10 else "pending")
        pass_time(session, timedelta(days=365))
        assert claim(session) == []


@pytest.mark.parametrize("asked", [0, 1000, 50_000, 10**9])
def test_retry_after_makes_a_wait_longer_never_shorter_and_a_day_at_most(
    database: Database, customer: Customer, asked: int
) -> None:
    answer = Answer(status=503, retry_after_seconds=asked)
    with database.transaction() as session:
        record(session, customer)
        for wait in SCHEDULE[1:]:
            (parcel,) = claim(session)
            outbox.mark(session, [(parcel, answer)], lease_seconds=30)
            stored = session.scalar(select(Delivery.next_attempt_at - func.now()))
            assert stored == max(wait, min(timedelta(seconds=asked), timedelta(days=1)))
            pass_time(session, stored)


def _asctime(date: datetime) -> str:
    return f"{date:%a %b} {date.day:2d} {date:%H:%M:%S %Y}"


FORMS = {
    "IMF-fixdate": lambda date: format_datetime(date, usegmt=True),
    "RFC 850": lambda date: f"{date:%A, %d-%b-%y %H:%M:%S} GMT",
    "asctime": _asctime,
}


@pytest.mark.parametrize(
    ("form", "seconds", "wait"),
    [
        *((form, 1000, 1000) for form in FORMS),
        ("IMF-fixdate", -1000, 5),
        ("IMF-fixdate", 10**7, 86_400),
    ],
)
def test_retry_after_may_be_a_date_in_any_form_of_http(
    attempt: Deliver, pending: Receiver, database: Database, form: str, seconds: int, wait: int
) -> None:
    date = datetime.now(UTC) + timedelta(seconds=seconds)
    pending.answers = [(503, {"Retry-After": FORMS[form](date)})]
    assert attempt().state == "pending"
    with database.transaction() as session:
        left = session.scalar(select(Delivery.next_attempt_at - func.now()))
    assert timedelta(seconds=wait - 30) < left <= timedelta(seconds=wait)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "tomorrow",
        "Fri, 99 Foo 2026 99:99:99 GMT",
        "Fri, 31 Dec 9999 23:59:59 -9999",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Fri, 20 Nov 2026 10:00:00 +999999999999",
        "Fri, 20 Nov " + "9" * 20 + " 10:00:00 GMT",
        "1e9",
        "Fri, 20 Nov 2026 10:00:00 GMT" + " " * 60_000,
    ],
)
def test_a_date_that_is_none_leaves_the_schedule_as_it_is(
    attempt: Deliver, pending: Receiver, database: Database, said: str
) -> None:
    pending.answers = [(503, {"Retry-After": said})]
    recorded = attempt()
    assert (recorded.state, recorded.last_status) == ("pending", 503)
    with database.transaction() as session:
        left = session.scalar(select(Delivery.next_attempt_at - func.now()))
    assert timedelta(0) < left <= timedelta(seconds=5) or said.startswith("Fri, 31 Dec 9999")
