"""Sentry's real SDK against a local endpoint: errors arrive, what customers wrote does not.

Errors are provoked by breaking the schema under a running API and worker, in ways that make
PostgreSQL and its driver quote the row in their messages.
"""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import brotli
import pytest
import sentry_sdk
from sqlalchemy import text

from app import errortracking, schema
from app.config import Settings
from app.db import Database
from tests.acceptance.inbox import Inbox
from tests.acceptance.stack import Client, Part, Stack, eventually

DECOMPRESS = {"gzip": gzip.decompress, "br": brotli.decompress}
PROMPT = "marker-prompt"
SEED = 7

PROMPTS_LACK_A_COLUMN = (
    "ALTER TABLE prompts RENAME COLUMN prompt TO gone",
    "ALTER TABLE prompts RENAME COLUMN gone TO prompt",
)
PROMPTS_ARE_REFUSED = (
    "ALTER TABLE prompts ADD CONSTRAINT broken CHECK (job_id IS NULL) NOT VALID",
    "ALTER TABLE prompts DROP CONSTRAINT broken",
)
OUTPUTS_ARE_REFUSED = (
    "ALTER TABLE outputs ADD CONSTRAINT broken CHECK (job_id IS NULL) NOT VALID",
    "ALTER TABLE outputs DROP CONSTRAINT broken",
)


@dataclass(frozen=True)
class Reporting:
    """An API and a worker that report to an inbox, and their customer."""

    inbox: Inbox
    api: Part
    worker: Part
    me: Client
    output: str

    def reports(self) -> list[bytes]:
        """The envelopes, as they were before compression."""
        return [
            DECOMPRESS[each.headers["content-encoding"]](each.body) for each in self.inbox.posted
        ]

    def submit(self) -> int:
        """Submit the marked job; the status that was answered."""
        body = {"model": "fake", "prompt": PROMPT, "max_tokens": 5, "seed": SEED}
        url = f"{self.me.url}/api/v1/generate"
        headers = {"X-Request-ID": "marker-request"}
        answer = self.me.session.post(url, json=body, headers=headers, timeout=30)
        return answer.status_code


@pytest.fixture(scope="module")
def reporting(stack: Stack) -> Iterator[Reporting]:
    with Inbox() as inbox:
        dsn = {"SENTRY_DSN": f"http://key@{inbox.address}/1", "NO_PROXY": "127.0.0.1"}
        api, worker, me = stack.api(**dsn), stack.worker("fake", **dsn), stack.open_account()
        done = me.until(me.submit(PROMPT, max_tokens=5, seed=SEED), "succeeded")
        yield Reporting(inbox, api, worker, me, done["output"]["text"])


@contextmanager
def broken(stack: Stack, schema_change: tuple[str, str]) -> Iterator[None]:
    database = Database(stack.settings, schema.metadata)
    with database.transaction() as session:
        session.execute(text(schema_change[0]))
    try:
        yield
    finally:
        with database.transaction() as session:
            session.execute(text(schema_change[1]))
        database.close()


@pytest.mark.parametrize("change", [PROMPTS_LACK_A_COLUMN, PROMPTS_ARE_REFUSED])
def test_an_error_in_the_api_is_reported_without_prompt_and_key(
    change: tuple[str, str], stack: Stack, reporting: Reporting
) -> None:
    reporting.inbox.posted.clear()

    with broken(stack, change):
        assert reporting.submit() == 500

    report = eventually(reporting.reports, "the API reported its error")[0]
    assert b'"transaction":"jobs.generate"' in report
    assert b'"request_id":"marker-request"' in report
    assert_nothing_private(report, reporting)
    assert_nothing_private(reporting.api.log.read_bytes(), reporting)


def test_an_error_in_a_worker_is_reported_without_prompt_and_output(
    stack: Stack, reporting: Reporting
) -> None:
    reporting.inbox.posted.clear()

    with broken(stack, OUTPUTS_ARE_REFUSED):
        assert reporting.submit() == 202
        report = eventually(reporting.reports, "the worker reported its error")[0]

    assert b'"transaction":"generate"' in report
    assert b'"request_id":"marker-request"' in report
    assert b'"logentry":{"message":"job_crashed"' in report
    assert_nothing_private(report, reporting)
    assert_nothing_private(reporting.worker.log.read_bytes(), reporting)


def assert_nothing_private(written: bytes, reporting: Reporting) -> None:
    for private in [PROMPT, reporting.output, reporting.me.key, reporting.me.webhook_secret]:
        assert private.encode() not in written


def test_without_a_dsn_the_sdk_stays_off() -> None:
    errortracking.configure(Settings(sentry_dsn=""))

    assert not sentry_sdk.get_client().is_active()
