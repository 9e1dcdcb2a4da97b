"""A rule about addresses that is newer than a job must not keep that job from ending."""

from collections.abc import Callable

import pytest
from sqlalchemy import text

from app.db import Database
from tests.integration.conftest import Deliver, Submit, delivery


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://0x7f.1/hook", "An address is written as four decimal numbers, or in brackets."),
        ("http://2130706433/", "An address is written as four decimal numbers, or in brackets."),
        ("https://me:secret@example.com/", "A webhook URL carries no user name or password."),
        ("http://[", "This is not a URL."),
        ("", "A webhook URL begins with http:// or https:// and names a host."),
    ],
)
def test_a_job_whose_address_is_refused_by_now_ends_and_its_event_says_why_it_is_not_sent(
    submit: Submit,
    work: Callable[[], None],
    attempt: Deliver,
    database: Database,
    url: str,
    reason: str,
) -> None:
    job = submit(webhook_url="http://127.0.0.1:9/", max_tokens=5).get_json()
    with database.transaction() as session:
        session.execute(text("UPDATE jobs SET webhook_url = :url"), {"url": url})
    work()
    with database.transaction() as session:
        assert session.scalar(text("SELECT status FROM jobs")) == "succeeded"
    recorded = delivery(database)
    assert (str(recorded.job_id), recorded.url, recorded.host) == (job["id"], url, "invalid")
    tried = attempt()
    assert (tried.state, tried.attempts, tried.last_error) == ("pending", 1, reason)
