"""Batches that are cut off, cancelled, late or poor: nothing lost, nothing done or paid twice."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from flask import Flask
from openai import OpenAI
from openai.types import Batch
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app import schema
from app.batches import feeding, steps, tables, validating, writing
from app.batches.tables import BatchLine
from app.billing import ledger
from app.billing.tables import Balance, ChargeState
from app.config import Settings
from app.db import Database
from app.files.tables import File
from app.jobs.tables import Job
from tests import books
from tests.conftest import CATALOG, Customer
from tests.integration.batching import ENDED, created, ended, line, names, read
from tests.integration.live import served, working
from workers.feed import Feeder
from workers.process import Process
from workers.sweep import advance_batches, expire_late

LINES = [line(f"r{number}", seed=number) for number in range(20)]
LINES[4] = line("bad", temperature=9)
LINES[17] = line("long", max_tokens=99)
GOOD = [each["custom_id"] for each in LINES if each["custom_id"].startswith("r")]


@pytest.fixture
def catalog_file(tmp_path: Path) -> Path:
    """A model with 300 words a second."""
    path = tmp_path / "fast.toml"
    path.write_text(CATALOG.replace('source = "fake:"', 'source = "fake:tokens_per_second=300"', 1))
    return path


@pytest.fixture
def sdk(api: Flask, customer: Customer) -> Iterator[OpenAI]:
    """The SDK; nobody looks after batches but the test."""
    with served(api) as url, OpenAI(base_url=f"{url}/v1", api_key=customer.key) as sdk:
        yield sdk


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many steps for few lines."""
    monkeypatch.setattr(writing, "GROUP_BYTES", 2000)
    for part in (validating, feeding, writing):
        monkeypatch.setattr(part, "GROUP_LINES", 3)


class Killed(BaseException):
    """As if the process were gone."""


class Mortal(Database):
    """A database whose user is killed at a chosen moment."""

    def __init__(self, settings: Settings, moment: str | None) -> None:
        super().__init__(settings, schema.metadata)
        self._moment = moment

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Killed before the commit, or right after it."""
        with super().transaction() as session:
            yield session
            if self._moment == "before":
                raise Killed
        if self._moment == "after":
            raise Killed


def run(feeder: Feeder, sdk: OpenAI, batch: Batch) -> Batch:
    """Step by step to its end, without waiting for pauses."""
    for _ in range(3000):
        feeder.step()
        found = sdk.batches.retrieve(batch.id)
        if found.status in ENDED:
            return found
    raise AssertionError(found)


def check(sdk: OpenAI, done: Batch, database: Database, customer: Customer) -> list[dict[str, Any]]:
    """Whatever happened: each line is in one of the files, once and in order, its job its own, the
    sums those of the lines, and the money right. Returns the output.
    """
    output, errors = read(sdk, done.output_file_id), read(sdk, done.error_file_id)
    counts = done.request_counts
    assert counts is not None
    assert (counts.completed, counts.failed) == (len(output), len(errors))
    assert counts.total == len(output) + len(errors)
    order = {f"r{number}": number for number in range(20)} | {"bad": 4, "long": 17}
    for some in (names(output), names(errors)):
        assert some == sorted(set(some), key=order.__getitem__)
    assert not set(names(output)) & set(names(errors))
    with database.transaction() as session:
        assert books.wrong(session, [customer.id]) == []
        assert session.get_one(Balance, customer.id).held_micros == 0
        jobs = session.scalar(select(func.count()).select_from(Job))
        linked = select(func.count(BatchLine.job_id.distinct())).select_from(BatchLine)
        assert jobs == session.scalar(linked)
        assert session.scalar(select(func.count()).where(File.completed_at.is_(None))) == 0
    return output


def test_a_kill_at_any_moment_loses_nothing_and_repeats_nothing(
    sdk: OpenAI, process: Process, settings: Settings, database: Database, customer: Customer
) -> None:
    batch = created(sdk, LINES)
    kills = 0
    with working(process):
        while sdk.batches.retrieve(batch.id).status not in ENDED:
            for moment in ("before", "after"):
                mortal = Mortal(settings, moment)
                with pytest.raises(Killed):
                    Feeder(settings, mortal, process.broker).step()
                mortal.close()
                kills += 1
        unharmed = run(process.feeder, sdk, created(sdk, LINES))
    assert kills > 2 * 3 * len(LINES) // 3
    done = sdk.batches.retrieve(batch.id)
    assert done.status == "completed"
    output = read(sdk, done.output_file_id)
    assert names(output) == GOOD
    assert said(output) == said(check(sdk, unharmed, database, customer))
    check(sdk, done, database, customer)


def test_two_feeders_do_each_step_once(
    sdk: OpenAI, process: Process, settings: Settings, database: Database, customer: Customer
) -> None:
    batches = [created(sdk, LINES) for _ in range(3)]
    databases = [Database(settings, schema.metadata) for _ in range(3)]
    feeders = [Feeder(settings, each, process.broker) for each in databases]
    try:
        with working(process):
            for feeder in feeders:
                feeder.wake()
                feeder.wake()
            found = [ended(sdk, batch) for batch in batches]
    finally:
        for feeder in feeders:
            feeder.stop()
        for each in databases:
            each.close()
    for done in found:
        assert names(check(sdk, done, database, customer)) == GOOD


def test_a_lost_message_is_replaced_by_the_sweep(sdk: OpenAI, process: Process) -> None:
    batch = created(sdk, LINES[:4])
    advance_batches(process)
    with working(process):
        assert ended(sdk, batch).status == "completed"


def test_a_cancelled_batch_keeps_what_was_done(
    sdk: OpenAI, process: Process, database: Database, customer: Customer
) -> None:
    slow = [line(f"r{n}", seed=n, max_tokens=90 if n > 5 else 2) for n in range(20)]
    batch = created(sdk, slow)
    with working(process):
        while sdk.batches.retrieve(batch.id).request_counts.completed < 4:  # type: ignore[union-attr]
            process.feeder.step()
        asked = sdk.batches.cancel(batch.id)
        assert (asked.status, asked.output_file_id) == ("cancelling", None)
        assert sdk.batches.cancel(batch.id).status == "cancelling"
        done = run(process.feeder, sdk, batch)
    assert (done.status, done.completed_at) == ("cancelled", None)
    assert done.cancelled_at is not None
    output = check(sdk, done, database, customer)
    assert set(names(output)) >= {f"r{n}" for n in range(4)}
    assert len(output) < 20
    for each in read(sdk, done.error_file_id):
        assert (each["response"], each["error"]["code"]) == (None, "batch_cancelled")
    assert sdk.batches.cancel(batch.id).status == "cancelled"


def test_jobs_of_a_cancelled_batch_that_no_worker_has_are_cancelled(
    sdk: OpenAI, process: Process, database: Database, customer: Customer
) -> None:
    batch = created(sdk, LINES)
    while not sdk.batches.retrieve(batch.id).request_counts.failed:  # type: ignore[union-attr]
        process.feeder.step()
    sdk.batches.cancel(batch.id)
    done = run(process.feeder, sdk, batch)
    assert (done.status, check(sdk, done, database, customer)) == ("cancelled", [])
    codes = [each["error"]["code"] for each in read(sdk, done.error_file_id) if each["error"]]
    assert codes == ["batch_cancelled"] * 19
    with database.transaction() as session:
        assert set(session.scalars(select(Job.status))) == {"cancelled"}


def test_a_batch_is_cancelled_before_it_was_read(
    sdk: OpenAI, process: Process, database: Database, customer: Customer
) -> None:
    batch = created(sdk, LINES)
    process.feeder.step()
    sdk.batches.cancel(batch.id)
    done = run(process.feeder, sdk, batch)
    assert done.status == "cancelled"
    assert check(sdk, done, database, customer) == []
    assert done.request_counts is not None
    assert done.request_counts.total == 3


def test_a_file_with_too_many_lines_is_no_batch(
    sdk: OpenAI, process: Process, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validating, "MOST_LINES", 20)
    process.feeder.step()
    assert run(process.feeder, sdk, created(sdk, [*LINES, line("more")])).status == "failed"
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(BatchLine)) == 0
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_a_batch_that_has_ended_cannot_be_cancelled(sdk: OpenAI, process: Process) -> None:
    batch = created(sdk, [])
    process.feeder.step()
    with pytest.raises(openai.ConflictError) as error:
        sdk.batches.cancel(batch.id)
    assert (error.value.code, error.value.param) == ("batch_ended", "batch_id")


def test_the_end_of_the_window_keeps_what_was_done(
    sdk: OpenAI, process: Process, database: Database, customer: Customer
) -> None:
    slow = [line(f"r{n}", seed=n, max_tokens=90 if n > 5 else 2) for n in range(20)]
    batch = created(sdk, slow)
    for _ in range(11):  # all are read, and some are fed
        process.feeder.step()
    with working(process):
        while sdk.batches.retrieve(batch.id).request_counts.completed < 4:  # type: ignore[union-attr]
            now(database)
            process.feeder.step()
        with database.transaction() as session:
            session.execute(update(tables.Batch).values(expires_at=func.now()))
            waiting = update(Job).where(Job.status == "queued")
            session.execute(waiting.values(deadline_at=func.now()))
        expire_late(process)
        done = run(process.feeder, sdk, batch)
    assert done.status == "expired"
    assert done.expired_at is not None
    output = check(sdk, done, database, customer)
    assert set(names(output)) >= {f"r{n}" for n in range(4)}
    errors = read(sdk, done.error_file_id)
    assert errors
    for each in errors:
        assert (each["response"], each["error"]["code"]) == (None, "batch_expired")


def test_a_window_that_ends_before_the_file_was_read(sdk: OpenAI, process: Process) -> None:
    batch = created(sdk, LINES)
    with process.database.transaction() as session:
        session.execute(update(tables.Batch).values(expires_at=func.now()))
    assert run(process.feeder, sdk, batch).status == "expired"


def test_lines_wait_for_credit_and_go_on_when_there_is_some(
    api: Flask,
    process: Process,
    new_customer: Callable[..., Customer],
    database: Database,
) -> None:
    poor = new_customer(credit_micros=3)
    with (
        served(api) as url,
        OpenAI(base_url=f"{url}/v1", api_key=poor.key) as sdk,
        working(process),
    ):
        batch = created(sdk, LINES)
        for _ in range(30):
            now(database)
            process.feeder.step()
        waits = sdk.batches.retrieve(batch.id)
        assert (waits.status, waits.model_extra) == ("in_progress", {"waiting_for": "credit"})
        with database.transaction() as session:
            assert session.scalars(select(Job.id)).all() == []
            ledger.grant(session, poor.id, 1000)
        done = run(process.feeder, sdk, batch)
        assert done.model_extra == {"waiting_for": None}
        assert names(check(sdk, done, database, poor)) == GOOD


def test_jobs_that_fail_are_free_and_told_as_errors(
    sdk: OpenAI, process: Process, database: Database, customer: Customer
) -> None:
    schema_of = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    batch = created(sdk, [line("r1"), line("r2", response_format=schema_of)])
    with working(process):
        done = run(process.feeder, sdk, batch)
    assert names(check(sdk, done, database, customer)) == ["r1"]
    (error,) = read(sdk, done.error_file_id)
    assert error["response"]["status_code"] == 400
    assert error["response"]["body"]["error"]["code"] == "invalid_request"
    with database.transaction() as session:
        states = session.scalars(text("SELECT state FROM charges ORDER BY job_id")).all()
    assert states == [ChargeState.CHARGED, ChargeState.RELEASED]


def test_a_batch_that_cannot_go_on_does_not_stop_the_others(
    sdk: OpenAI, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = created(sdk, LINES[:3]), created(sdk, LINES[:3])
    real = steps.validate

    def validate(session: Session, batch: tables.Batch, **how: Any) -> None:
        if batch.id.hex == broken.id.removeprefix("batch_"):
            raise RuntimeError("a bug")
        real(session, batch, **how)

    monkeypatch.setattr(steps, "validate", validate)
    with working(process):
        assert run(process.feeder, sdk, sound).status == "completed"
    assert sdk.batches.retrieve(broken.id).status == "validating"


def said(output: list[dict[str, Any]]) -> list[str]:
    """The texts of an output."""
    return [each["response"]["body"]["choices"][0]["message"]["content"] for each in output]


def now(database: Database) -> None:
    """Whatever is open is due."""
    with database.transaction() as session:
        session.execute(update(tables.Batch).values(look_at=func.now()))
