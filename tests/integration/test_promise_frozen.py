"""A process that stands still in a transaction (stopped, or its host vanished) does not keep its
locks: PostgreSQL ends an idle transaction after ten seconds.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from flask.testing import FlaskClient
from sqlalchemy import text

from app.db import Database
from app.jobs.claim import claim
from app.jobs.rescue import rescue
from tests.conftest import Customer
from tests.integration.conftest import Submit

BODY = {"model": "fake", "prompt": "one two three"}
PATIENCE_SECONDS = 30


def test_a_worker_that_stands_still_in_a_transaction_does_not_stop_the_submits_of_others(
    client_of: Callable[[Customer], FlaskClient],
    new_customer: Callable[..., Customer],
    database: Database,
) -> None:
    one, other = new_customer(), new_customer()
    frozen = database.engine.connect()  # what a stopped process leaves behind
    frozen.execute(text("SELECT 1 FROM balances WHERE account_id = :id FOR UPDATE"), {"id": one.id})
    threads = ThreadPoolExecutor(2)
    try:
        first = threads.submit(lambda: client_of(one).post("/api/v1/generate", json=BODY))
        second = threads.submit(lambda: client_of(other).post("/api/v1/generate", json=BODY))
        assert second.result(PATIENCE_SECONDS).status_code == 202
        assert first.result(PATIENCE_SECONDS).status_code in (202, 503)
    finally:
        frozen.invalidate()
        frozen.close()
        threads.shutdown()


def test_a_job_whose_worker_stands_still_in_a_transaction_is_rescued(
    submit: Submit, client: FlaskClient, database: Database
) -> None:
    import time

    submit()
    with database.transaction() as session:
        claim(session, [("fake", "1")], worker="w", lease_seconds=1, limit=1)
    frozen = database.engine.connect()
    frozen.execute(text("SELECT 1 FROM jobs FOR UPDATE"))
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while client.get("/api/v1/jobs").get_json()["data"][0]["status"] != "queued":
            with database.transaction() as session:
                rescue(session, max_attempts=3, base_url="http://here")
            assert time.monotonic() < deadline, "never rescued"
            time.sleep(0.5)
    finally:
        frozen.invalidate()
        frozen.close()
