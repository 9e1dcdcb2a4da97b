"""What the processes write: JSON lines that carry the ids, and nothing that customers wrote."""

import json
from pathlib import Path

import pytest

from tests.acceptance.stack import Part, Stack

PROMPT = "marker-prompt"


def lines(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(scope="module")
def done(stack: Stack, api: Part, worker: Part, sweeping: Part) -> dict:
    """A job that has gone through every process, and the key that submitted it."""
    me = stack.open_account()
    me.session.headers["X-Request-ID"] = "marker-request"
    job = me.until(me.submit(PROMPT, max_tokens=5), "succeeded")
    return {"key": me.key, **job}


@pytest.mark.parametrize("part", ["api", "worker", "sweeping"])
def test_every_line_is_a_json_event_with_a_time_and_a_level(
    part: str, done: dict, request: pytest.FixtureRequest
) -> None:
    for event in lines(request.getfixturevalue(part).log):
        assert event["event"]
        assert event["timestamp"]
        assert event["level"] in {"info", "warning"}


def test_the_lines_of_a_job_carry_its_id_and_the_id_of_its_request(
    done: dict, api: Part, worker: Part
) -> None:
    ids = {"job_id": done["id"], "request_id": "marker-request"}
    for event in [*api.events("job_submitted"), *worker.events("job_started")]:
        assert ids.items() <= event.items()
    assert api.events("job_submitted")
    assert worker.events("job_started")


@pytest.mark.parametrize("part", ["api", "worker", "sweeping"])
def test_neither_prompt_nor_output_nor_key_is_logged(
    part: str, done: dict, request: pytest.FixtureRequest
) -> None:
    log = request.getfixturevalue(part).log.read_text()
    for private in [PROMPT, done["output"]["text"], done["key"]]:
        assert private not in log
