"""Lists of jobs, and what they used: filters, pages, days."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from app.db import Database
from tests.conftest import Customer
from tests.integration.conftest import Submit

Work = Callable[[], None]


def _ids(client: FlaskClient, query: str) -> list[str]:
    return [job["id"] for job in client.get(f"/api/v1/jobs?{query}").get_json()["data"]]


def _pages(client: FlaskClient, query: str) -> list[list[str]]:
    pages, after = [], ""
    while True:
        page = client.get(f"/api/v1/jobs?{query}{after}").get_json()
        pages.append([job["id"] for job in page["data"]])
        assert page["has_more"] is (page["next"] is not None)
        if not page["has_more"]:
            return pages
        after = f"&after={page['next']}"


def test_an_account_without_jobs_has_an_empty_list(client: FlaskClient) -> None:
    page = client.get("/api/v1/jobs").get_json()
    assert page == {"data": [], "has_more": False, "next": None}


def test_jobs_are_listed_newest_first_and_page_by_page(client: FlaskClient, submit: Submit) -> None:
    newest_first = [submit().get_json()["id"] for _ in range(5)][::-1]
    assert _ids(client, "") == newest_first
    assert _pages(client, "limit=2") == [newest_first[:2], newest_first[2:4], newest_first[4:]]
    assert _pages(client, "limit=5") == [newest_first]


def test_pages_stay_the_same_while_new_jobs_come_in(client: FlaskClient, submit: Submit) -> None:
    old = [submit().get_json()["id"] for _ in range(4)][::-1]
    first = client.get("/api/v1/jobs?limit=2").get_json()
    submit(priority=100)
    second = client.get(f"/api/v1/jobs?limit=2&after={first['next']}").get_json()
    assert [job["id"] for job in first["data"] + second["data"]] == old


def test_a_list_can_be_narrowed_by_status_and_model(
    client: FlaskClient, submit: Submit, work: Work
) -> None:
    done, waits = submit().get_json()["id"], submit().get_json()["id"]
    work()
    assert _ids(client, "status=succeeded") == [done]
    assert _ids(client, "status=queued") == [waits]
    assert _ids(client, "status=failed") == []
    assert _ids(client, "model=fake") == [waits, done]
    assert _ids(client, "model=other") == []
    assert _ids(client, "model=fake&status=queued&limit=1") == [waits]


def test_an_entry_of_a_list_is_the_job_as_a_read_shows_it(
    client: FlaskClient, submit: Submit, work: Work
) -> None:
    submit(max_tokens=3)
    submit()
    work()
    for entry in client.get("/api/v1/jobs").get_json()["data"]:
        assert entry == client.get(f"/api/v1/jobs/{entry['id']}").get_json()


def test_an_account_lists_only_its_own_jobs(
    api: Flask, submit: Submit, new_customer: Callable[[], Customer]
) -> None:
    job = submit().get_json()["id"]
    stranger = api.test_client()
    headers = new_customer().headers
    assert stranger.get("/api/v1/jobs", headers=headers).get_json()["data"] == []
    after = stranger.get(f"/api/v1/jobs?after={job}", headers=headers).get_json()
    assert after["data"] == []
    usage = stranger.get("/api/v1/usage", headers=headers).get_json()
    assert (usage["data"], usage["balance"]["held_micros"]) == ([], 0)


@pytest.fixture
def finished(submit: Submit, work: Work, database: Database) -> Callable[[str], dict[str, Any]]:
    """Run a job of 3 + 5 tokens that ended at this moment (UTC)."""

    def run(moment: str) -> dict[str, Any]:
        job = submit(max_tokens=5).get_json()
        work()
        with database.transaction() as session:
            session.execute(
                text("UPDATE jobs SET finished_at = :moment WHERE id = :id"),
                {"moment": f"{moment}+00", "id": job["id"]},
            )
        return dict(job)

    return run


def _day(date: str, requests: int) -> dict[str, Any]:
    return {
        "date": date,
        "model": "fake",
        "requests": requests,
        "prompt_tokens": 3 * requests,
        "completion_tokens": 5 * requests,
        "charged_micros": 13 * requests,
    }


def test_usage_is_summed_by_day_and_model_with_both_ends_included(
    client: FlaskClient, finished: Callable[[str], None], submit: Submit
) -> None:
    for moment in (
        "2024-02-28 23:59:59.999999",
        "2024-02-29 00:00:00",
        "2024-02-29 23:59:59.999999",
        "2024-03-01 00:00:00",
    ):
        finished(moment)
    submit(max_tokens=5)  # has not ended, so it was not used yet

    one_day = client.get("/api/v1/usage?from=2024-02-29&to=2024-02-29").get_json()
    assert one_day["data"] == [_day("2024-02-29", 2)]
    total = {name: value for name, value in _day("", 2).items() if name not in {"date", "model"}}
    assert one_day["total"] == total
    assert one_day["currency"] == "USD"
    assert one_day["balance"] == {"available_micros": 1_000_000 - 5 * 13, "held_micros": 13}

    days = client.get("/api/v1/usage?from=2024-02-28&to=2024-03-01").get_json()["data"]
    assert days == [_day("2024-02-28", 1), _day("2024-02-29", 2), _day("2024-03-01", 1)]
    assert client.get("/api/v1/usage?to=2024-02-28").get_json()["total"]["requests"] == 1
    assert client.get("/api/v1/usage?to=2024-02-27").get_json()["total"]["requests"] == 0


def test_usage_without_dates_is_that_of_the_last_thirty_days(
    client: FlaskClient, finished: Callable[[str], None]
) -> None:
    now = datetime.now(UTC)
    for days in (1, 28, 31, 400):
        finished((now - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S"))
    assert client.get("/api/v1/usage").get_json()["total"]["requests"] == 2
    since = (now - timedelta(days=31)).date()
    assert client.get(f"/api/v1/usage?from={since}").get_json()["total"]["requests"] == 3
    assert client.get("/api/v1/usage?from=2999-12-31").get_json()["data"] == []


def test_usage_is_by_utc_day_whatever_the_servers_time_zone(
    client: FlaskClient,
    finished: Callable[[str], None],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.db.FRESH_SECONDS", 0)  # the connections end below
    finished("2024-02-29 23:30:00")
    with database.transaction() as session:
        name = session.scalar(text("SELECT current_database()"))
        session.execute(text(f"ALTER DATABASE {name} SET timezone TO 'Asia/Tokyo'"))
        session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = current_user AND datname = current_database()"
                " AND pid <> pg_backend_pid()"
            )
        )
    usage = client.get("/api/v1/usage?from=2024-02-29&to=2024-02-29").get_json()
    assert usage["data"] == [_day("2024-02-29", 1)]


def test_a_job_that_failed_or_was_cancelled_is_counted_and_free(
    client: FlaskClient, submit: Submit
) -> None:
    client.post(f"/api/v1/jobs/{submit().get_json()['id']}/cancel")
    (day,) = client.get("/api/v1/usage").get_json()["data"]
    assert (day["requests"], day["completion_tokens"], day["charged_micros"]) == (1, 0, 0)
