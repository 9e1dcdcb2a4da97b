"""Submit, read and list: what arrives at the engine, and what comes back."""

import json
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from app.config import Settings
from app.db import Database
from tests.integration.conftest import PostText, Submit
from workers.engines.base import Message, Request, Sampling
from workers.engines.fake import FakeEngine

Work = Callable[[], None]

PARAMETERS = {
    "max_tokens": 7,
    "temperature": 0.25,
    "top_p": 0.5,
    "top_k": 40,
    "seed": 2**63 - 1,
    "stop": ["\n", "END"],
    "min_p": 0.125,
    "stop_token_ids": [2, 2**31 - 1],
    "repetition_penalty": 1.5,
    "presence_penalty": -2,
    "frequency_penalty": 0.75,
    "logprobs": True,
}
SCHEMA = {
    "type": "object",
    "properties": {"b": {"type": "string"}, "a": {"enum": ["\x00\N{SNOWMAN}"]}},
}
NEWER = {
    "min_p",
    "stop_token_ids",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "json_schema",
}


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The requests that reach the engine."""
    requests: list[Request] = []
    submit = FakeEngine.submit

    def record(engine: FakeEngine, request: Request) -> Any:
        requests.append(request)
        return submit(engine, request)

    monkeypatch.setattr(FakeEngine, "submit", record)
    return requests


def test_every_parameter_arrives_at_the_engine(
    submit: Submit, work: Work, arrived: list[Request]
) -> None:
    assert submit(**PARAMETERS, deadline_seconds=1000).status_code == 202
    work()
    (request,) = arrived
    assert request.max_tokens == 7
    assert request.sampling == Sampling(
        temperature=0.25,
        top_p=0.5,
        top_k=40,
        seed=2**63 - 1,
        min_p=0.125,
        stop=("\n", "END"),
        stop_token_ids=(2, 2**31 - 1),
        repetition_penalty=1.5,
        presence_penalty=-2.0,
        frequency_penalty=0.75,
        logprobs=True,
    )
    assert request.deadline is not None
    assert 900 < request.deadline - time.monotonic() <= 1000


def test_what_is_not_said_gets_its_default(
    submit: Submit, work: Work, arrived: list[Request]
) -> None:
    submit()
    work()
    (request,) = arrived
    assert (request.max_tokens, request.sampling) == (20, Sampling())


def test_a_schema_arrives_as_it_was_sent_and_an_engine_that_cannot_follow_it_says_so(
    post_text: PostText, work: Work, client: FlaskClient, arrived: list[Request]
) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    body = {"model": "fake", "prompt": "hi", "response_format": wanted}
    job_id = post_text(json.dumps(body)).get_json()["id"]  # Flask's own client would sort it
    work()
    (request,) = arrived
    assert request.sampling.json_schema is not None
    found = json.loads(request.sampling.json_schema)
    assert (found, list(found["properties"])) == (SCHEMA, ["b", "a"])
    job = client.get(f"/api/v1/jobs/{job_id}").get_json()
    assert (job["status"], job["charge"]["state"]) == ("failed", "released")
    assert job["error"] == {
        "code": "invalid_request",
        "message": "This model's engine cannot constrain its output.",
    }


def test_a_job_of_an_older_version_runs_without_what_that_did_not_know(
    submit: Submit, work: Work, database: Database, arrived: list[Request]
) -> None:
    submit(temperature=0.25, stop=["END"])
    with database.transaction() as session:
        session.execute(
            text("UPDATE jobs SET parameters = parameters - CAST(:newer AS text[])"),
            {"newer": list(NEWER)},
        )
        stored = session.execute(text("SELECT parameters FROM jobs")).scalar_one()
    assert not stored.keys() & NEWER
    work()
    (request,) = arrived
    assert request.sampling == Sampling(temperature=0.25, stop=("END",))


def test_generate_and_chat_send_messages_and_complete_sends_the_text_itself(
    submit: Submit, work: Work, arrived: list[Request]
) -> None:
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    kinds = [
        submit("generate", prompt="hello").get_json()["kind"],
        submit("complete", prompt="hello").get_json()["kind"],
        submit("chat", messages=chat).get_json()["kind"],
    ]
    assert kinds == ["generate", "complete", "chat"]
    for _ in kinds:
        work()
    assert [request.prompt for request in arrived] == [None, "hello", None]
    assert [request.messages for request in arrived] == [
        [Message("user", "hello")],
        None,
        [Message("system", "be brief"), Message("user", "hi")],
    ]


def test_a_job_says_everything_about_itself_from_the_start(
    submit: Submit, settings: Settings
) -> None:
    response = submit(
        metadata={"order": "12"}, priority=3, webhook_url="http://127.0.0.1:9/", max_tokens=5
    )
    job = response.get_json()
    url = f"{settings.public_url}/api/v1/jobs/{job['id']}"
    assert response.headers["Location"] == url
    assert UUID(job["id"]).version == 7
    assert job["urls"] == {"get": url, "cancel": f"{url}/cancel", "stream": f"{url}/events"}
    said = ("kind", "status", "model", "version", "priority", "metadata", "webhook_url")
    assert [job[name] for name in said] == [
        "generate",
        "queued",
        "fake",
        "1",
        3,
        {"order": "12"},
        "http://127.0.0.1:9/",
    ]
    assert job["created"].endswith("Z")
    unknown = ("started", "finished", "output", "usage", "error")
    assert [job[name] for name in unknown] == [None] * 5
    assert job["attempts"] == []
    assert job["waiting"] == {"reason": "no_worker", "position": 0, "eta_seconds": None}
    assert job["charge"] == {
        "state": "held",
        "held_micros": 3 * 1 + 5 * 2,
        "charged_micros": 0,
        "currency": "USD",
        "price": {
            "input_micros_per_million_tokens": 1_000_000,
            "output_micros_per_million_tokens": 2_000_000,
        },
    }


def test_an_ended_job_says_what_came_of_it(client: FlaskClient, submit: Submit, work: Work) -> None:
    job = submit(max_tokens=5).get_json()
    work()
    done = client.get(f"/api/v1/jobs/{job['id']}").get_json()
    assert done["status"] == "succeeded"
    assert done["output"]["finish_reason"] == "length"
    assert done["output"]["truncated"] is False
    assert done["created"] <= done["started"] <= done["finished"] <= done["deadline"]
    (attempt,) = done["attempts"]
    assert (attempt["number"], attempt["worker"]) == (1, "worker-test")
    assert attempt["started"] <= attempt["ended"]
    assert done["waiting"] is None
    kept = ("id", "urls", "created", "deadline", "metadata")
    assert [done[name] for name in kept] == [job[name] for name in kept]


def test_a_waiting_job_says_how_many_are_before_it(submit: Submit, client: FlaskClient) -> None:
    first, second = submit().get_json(), submit().get_json()
    urgent = submit(priority=1).get_json()
    positions = {
        each["id"]: each["waiting"]["position"]
        for each in client.get("/api/v1/jobs").get_json()["data"]
    }
    assert positions == {urgent["id"]: 0, first["id"]: 1, second["id"]: 2}
