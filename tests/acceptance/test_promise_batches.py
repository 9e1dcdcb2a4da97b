"""Whatever is killed in the middle of a batch, each of its lines is done and paid for once."""

import json
import time
from collections.abc import Iterator

import pytest
from openai import OpenAI
from openai.types import Batch
from redis import Redis

from app import schema
from app.db import Database
from tests import books
from tests.acceptance.stack import Client, Part, Stack, eventually

LINES = 900
MODEL = "smollm2-135m"  # a fake one, which is quick


@pytest.fixture
def sdk(me: Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{me.url}/v1", api_key=me.key) as sdk:
        yield sdk


@pytest.fixture
def parts(stack: Stack, api: Part, sweeping: Part) -> dict[str, Part]:
    """What will be killed."""
    worker = stack.worker(MODEL)
    eventually(lambda: worker.events("model_ready"), "the model is loaded")
    return {"api": api, "feeder": sweeping, "worker": worker}


def test_a_batch_survives_the_death_of_every_process(
    stack: Stack, sdk: OpenAI, parts: dict[str, Part]
) -> None:
    url = "/v1/chat/completions"
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "one two"}], "max_tokens": 9}
    text = "".join(
        json.dumps({"custom_id": f"r{n}", "method": "POST", "url": url, "body": asked}) + "\n"
        for n in range(LINES)
    )
    file = sdk.files.create(file=text.encode(), purpose="batch")
    batch = sdk.batches.create(input_file_id=file.id, endpoint=url, completion_window="24h")
    for share, name in ((0.05, "feeder"), (0.3, "worker"), (0.5, "feeder"), (0.7, "api")):
        _reach(sdk, batch, int(share * LINES))
        parts[name].kill()
        with Redis.from_url(stack.settings.redis_url) as broker:
            broker.flushall()  # and all messages are lost
        parts[name].start()
    done = _reach(sdk, batch, LINES)
    done = eventually(lambda: _ended(sdk, done), "the batch ends")
    assert done.status == "completed"
    assert done.output_file_id is not None
    output = [json.loads(line) for line in sdk.files.content(done.output_file_id).iter_lines()]
    assert [line["custom_id"] for line in output] == [f"r{n}" for n in range(LINES)]
    _check_books(stack, output)


def _reach(sdk: OpenAI, batch: Batch, completed: int) -> Batch:
    """The batch when so many lines are done; the API may be starting again."""
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        found = sdk.with_options(max_retries=20).batches.retrieve(batch.id)
        assert found.request_counts is not None
        if found.request_counts.completed >= completed:
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def _ended(sdk: OpenAI, batch: Batch) -> Batch | None:
    found = sdk.batches.retrieve(batch.id)
    return found if found.completed_at else None


def _check_books(stack: Stack, output: list[dict[str, object]]) -> None:
    database = Database(stack.settings, schema.metadata)
    try:
        with database.transaction() as session:
            accounts = session.connection().exec_driver_sql(
                "SELECT jobs.account_id, count(*), count(DISTINCT id), sum(charged_micros) > 0"
                " FROM jobs JOIN charges ON charges.job_id = jobs.id GROUP BY jobs.account_id"
            )
            ((account, jobs, distinct, charged),) = accounts.all()
            assert (jobs, distinct, charged) == (len(output), len(output), True)
            assert books.wrong(session, [account]) == []
    finally:
        database.close()
