"""scripts/batch against the real API over HTTP, interrupted and resumed."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from app.accounts.admin import grant_credit
from app.api import create_app
from app.config import Settings
from app.db import Database
from tests.acceptance.batch import Batch, Json, Server, finished
from tests.conftest import Customer


@pytest.fixture
def server(settings: Settings) -> Iterator[Server]:
    """The API, listening; in this process, so that it stops and starts at once."""
    app = create_app(settings)
    server = Server(app)
    server.start()
    yield server
    server.stop()
    app.extensions["gptqueue"].watchers.close()
    app.extensions["gptqueue"].database.close()


@pytest.fixture
def worker(work: Callable[[], None]) -> Iterator[None]:
    """Does about fifty jobs per second."""
    with working(work, pause=0.02):
        yield


@contextmanager
def working(work: Callable[[], None], pause: float) -> Iterator[None]:
    stopping = threading.Event()

    def run() -> None:
        while not stopping.wait(pause):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


@pytest.fixture
def batch(tmp_path: Path, server: Server, customer: Customer) -> Batch:
    """A batch of the customer's."""
    return Batch(tmp_path, server.url, customer.key)


def prompt(number: int = 0) -> Json:
    """A job that costs 3 + 2 * 5 micros."""
    return {"model": "fake", "prompt": f"tell me {number}", "max_tokens": 5}


COST_MICROS = 3 + 2 * 5


def totals(database: Database) -> Sequence[int]:
    """Jobs, what was charged for them, and what is still held."""
    with database.transaction() as session:
        return tuple(
            session.execute(
                text(
                    "SELECT (SELECT count(*) FROM jobs), "
                    "(SELECT sum(charged_micros) FROM charges)::int, "
                    "(SELECT sum(held_micros) FROM balances)::int"
                )
            ).one()
        )


def test_every_line_gets_its_result(batch: Batch, worker: None, database: Database) -> None:
    chat = {"model": "fake", "messages": [{"role": "user", "content": "one two three"}]}
    batch.write(
        prompt() | {"custom_id": "mine"},
        chat | {"max_tokens": 5},
        "",
        prompt() | {"endpoint": "complete"},
    )
    code, said = batch.run()

    assert code == 0, said
    assert [record["line"] for record in batch.records()] == [1, 2, 4]
    assert [record["custom_id"] for record in batch.records()] == ["mine", "2", "4"]
    assert [record["job"]["kind"] for record in batch.records()] == ["generate", "chat", "complete"]
    assert all(record["job"]["output"]["text"] for record in batch.records())
    assert "3 of 3 lines succeeded" in said
    assert totals(database) == (3, 3 * COST_MICROS, 0)


def test_bad_lines_are_reported_and_the_others_run(
    batch: Batch, worker: None, database: Database
) -> None:
    batch.write(
        "{not json",
        "[1, 2]",
        prompt() | {"custom_id": "a"},
        prompt() | {"custom_id": "a"},
        prompt() | {"custom_id": 5},
        {"model": "fake"},
        prompt() | {"endpoint": "paint"},
        prompt() | {"model": "unknown"},
        prompt() | {"prompt": "\ud800"},
        '{"model": NaN, "prompt": "x"}',
        "[" * 100_000,
    )
    code, said = batch.run()

    assert code == 1
    codes = [record.get("error", {}).get("code") for record in batch.records()]
    assert codes == [
        "invalid_json",
        "not_an_object",
        None,
        "duplicate_custom_id",
        "invalid_custom_id",
        "no_prompt",
        "unknown_endpoint",
        "unknown_model",
        "invalid_json",
        "invalid_json",
        "invalid_json",
    ]
    assert all(f"line {number}: " in said for number in range(1, 12) if number != 3)
    assert "1 of 11 lines succeeded, 10 failed" in said
    assert totals(database) == (1, COST_MICROS, 0)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_batch_resumes_without_paying_twice(
    batch: Batch, worker: None, database: Database, how: signal.Signals, code: int
) -> None:
    batch.write(*map(prompt, range(60)))
    first = batch.start("--concurrency", "8")
    batch.await_records(10)
    first.send_signal(how)
    assert finished(first)[0] == code
    assert len(batch.records()) < 60
    with batch.output.open("a") as file:
        file.write('{"line": 60, "cust')  # what a kill in the middle of a write leaves

    assert batch.run()[0] == 0
    assert [record["line"] for record in batch.records()] == list(range(1, 61))
    assert totals(database) == (60, 60 * COST_MICROS, 0)

    assert batch.run()[0] == 0  # there is nothing left to do
    assert totals(database) == (60, 60 * COST_MICROS, 0)


def test_an_api_that_is_away_for_a_while_costs_only_time(
    batch: Batch, worker: None, database: Database, server: Server
) -> None:
    batch.write(*map(prompt, range(40)))
    running = batch.start("--concurrency", "4")
    batch.await_records(5)
    server.stop()
    time.sleep(1)
    server.start()

    code, said = finished(running)
    assert code == 0, said
    assert "Waiting for the API" in said
    assert totals(database) == (40, 40 * COST_MICROS, 0)


def test_an_api_that_stays_away_stops_the_batch(
    batch: Batch, worker: None, server: Server, database: Database
) -> None:
    batch.write(*map(prompt, range(40)))
    running = batch.start("--concurrency", "4", "--patience", "1")
    batch.await_records(5)
    server.stop()
    code, said = finished(running)
    server.start()

    assert code == 3
    assert "The API is not available" in said
    assert batch.run()[0] == 0
    assert totals(database) == (40, 40 * COST_MICROS, 0)


def test_credit_that_runs_out_stops_the_batch_until_there_is_more(
    tmp_path: Path,
    server: Server,
    worker: None,
    database: Database,
    new_customer: Callable[..., Customer],
) -> None:
    poor = new_customer(credit_micros=3 * COST_MICROS)
    batch = Batch(tmp_path, server.url, poor.key)
    batch.write(*map(prompt, range(5)))
    code, said = batch.run()
    assert code == 3
    assert "The credit is used up" in said
    assert len(batch.records()) == 3

    with database.transaction() as session:
        grant_credit(session, account_id=poor.id, amount_micros=2 * COST_MICROS)
    assert batch.run()[0] == 0
    assert totals(database) == (5, 5 * COST_MICROS, 0)


def test_credit_that_other_lines_only_hold_is_waited_for(
    tmp_path: Path,
    server: Server,
    work: Callable[[], None],
    new_customer: Callable[..., Customer],
) -> None:
    batch = Batch(tmp_path, server.url, new_customer(credit_micros=120).key)
    # Each holds 97 and costs 5: it ends after one word. The second must wait for the first.
    batch.write(*[prompt() | {"max_tokens": 47, "stop": ["a", "e", "o", "u"]}] * 2)
    with working(work, pause=0.5):
        assert batch.run()[0] == 0


@pytest.mark.parametrize("missing", ["GPTQUEUE_URL", "GPTQUEUE_API_KEY"])
def test_what_is_missing_is_said(batch: Batch, missing: str) -> None:
    batch.write(prompt())
    del batch.environment[missing]
    code, said = batch.run()
    assert code == 2
    assert f"{missing} is not set" in said


def test_it_does_not_start_with_a_wrong_key_or_into_a_strangers_file(
    batch: Batch, tmp_path: Path
) -> None:
    batch.write(prompt())
    code, said = batch.run("--key", "gq_wrong")
    assert (code, "not valid" in said) == (2, True)

    batch.output.write_text("something else\n")
    code, said = batch.run()
    assert (code, "choose another name" in said) == (2, True)
    assert batch.output.read_text() == "something else\n"


def test_a_changed_input_is_noticed(batch: Batch, worker: None) -> None:
    batch.write(prompt())
    assert batch.run()[0] == 0
    batch.write(prompt(), prompt())
    code, said = batch.run()
    assert (code, "the input was changed" in said) == (2, True)
