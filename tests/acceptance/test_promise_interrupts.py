"""A job that is cancelled, or past its deadline, leaves its engine at once, and pays for its part.

The clocks are those of production. Two seconds is what is promised; since a machine may be busy, a
test fails after ten. Left alone, the job would go on for minutes.
"""

import time
from datetime import UTC, datetime

import pytest

from app.config import Settings
from tests.acceptance.promises import STEADY, catalog, ready, start_worker
from tests.acceptance.stack import Client, Json, Part, Stack

pytestmark = pytest.mark.usefixtures("one_at_a_time")

PROMISED_SECONDS = 2
PATIENCE_SECONDS = 10
TOKENS_PER_SECOND = 20  # of STEADY
TOKENS = 4000
SOME_TOKENS_SECONDS = 1
PROMPT_TOKENS = 3
INPUT_MICROS, OUTPUT_MICROS = 1, 2  # a token, in tests/acceptance/conftest.py
CLOCKS = ["lease_seconds", "heartbeat_seconds", "cancel_poll_seconds"]


@pytest.fixture(scope="module")
def api(stack: Stack) -> Part:
    """In place of the one with other models."""
    stack.settings.catalog_file.write_text(catalog(fake=STEADY))
    return stack.api()


@pytest.fixture(scope="module")
def one_at_a_time(stack: Stack, api: Part) -> None:
    """A worker whose engine has room for one job."""
    clocks = {f"GPTQUEUE_{each.upper()}": str(default(each)) for each in CLOCKS}
    ready(start_worker(stack, "worker", "generate.fake", GPTQUEUE_ENGINE_SLOTS="1", **clocks))


def default(setting: str) -> float:
    return float(Settings.model_fields[setting].default)


def test_a_cancelled_job_leaves_the_engine_and_pays_for_what_was_generated(me: Client) -> None:
    job_id = me.submit(max_tokens=TOKENS)
    me.until(job_id, "running")
    after_it = me.submit(max_tokens=2)
    time.sleep(SOME_TOKENS_SECONDS)
    asked_at = datetime.now(UTC)
    assert me.post(f"jobs/{job_id}/cancel")["status"] == "running"

    job = me.until(job_id, "cancelled")
    assert_stopped_soon_after(asked_at, job)
    assert_paid_for_its_part(me, job)
    assert me.until(after_it, "succeeded")["usage"]["completion_tokens"] == 2


def test_a_job_past_its_deadline_leaves_the_engine_and_pays_for_what_was_generated(
    me: Client,
) -> None:
    job_id = me.submit(max_tokens=TOKENS, deadline_seconds=5)
    me.until(job_id, "running")
    after_it = me.submit(max_tokens=2)

    job = me.until(job_id, "expired")
    assert_stopped_soon_after(datetime.fromisoformat(job["deadline"]), job)
    assert_paid_for_its_part(me, job)
    assert me.until(after_it, "succeeded")["usage"]["completion_tokens"] == 2


def test_a_worker_asks_for_cancellations_often_enough_for_what_is_promised() -> None:
    assert default("cancel_poll_seconds") <= PROMISED_SECONDS / 2


def assert_stopped_soon_after(moment: datetime, job: Json) -> None:
    (attempt,) = job["attempts"]
    started, ended = (datetime.fromisoformat(attempt[each]) for each in ("started", "ended"))
    assert (ended - moment).total_seconds() < PATIENCE_SECONDS
    # The engine's own clock: it generated nothing after that.
    at_most = (ended - started).total_seconds() * TOKENS_PER_SECOND
    assert 0 < job["usage"]["completion_tokens"] <= at_most


def assert_paid_for_its_part(me: Client, job: Json) -> None:
    """As docs/billing.md says, and all else was given back."""
    generated = job["usage"]["completion_tokens"]
    assert len(job["output"]["text"].split()) == generated
    charged = PROMPT_TOKENS * INPUT_MICROS + generated * OUTPUT_MICROS
    assert (job["charge"]["state"], job["charge"]["charged_micros"]) == ("charged", charged)
    assert job["charge"]["held_micros"] == PROMPT_TOKENS * INPUT_MICROS + TOKENS * OUTPUT_MICROS
    # The one after it holds 3 + 2 * 2 at most, or has paid it.
    balance = me.get("usage")["balance"]
    after_it = PROMPT_TOKENS * INPUT_MICROS + 2 * OUTPUT_MICROS
    assert balance["available_micros"] == 1_000_000 - charged - after_it
