"""Chats that go on from what was said before."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient

from app.db import Database
from app.jobs.tables import Prompt
from tests.conftest import Customer
from tests.integration.conftest import Problem, Submit

Work = Callable[[], None]
Say = Callable[..., dict[str, Any]]


@pytest.fixture
def say(client: FlaskClient, work: Work) -> Say:
    """A turn of a conversation, worked off; the job."""

    def chat(text: str, name: str = "a chat", **fields: Any) -> dict[str, Any]:
        body = {
            "model": "fake",
            "max_tokens": 5,
            "conversation_id": name,
            "messages": [{"role": "user", "content": text}],
        }
        job = client.post("/api/v1/chat", json={**body, **fields}).get_json()
        work()
        return client.get(f"/api/v1/jobs/{job['id']}").get_json()

    return chat


def test_a_turn_goes_on_from_what_was_said_before(client: FlaskClient, say: Say) -> None:
    rules = {"role": "system", "content": "be kind"}
    first = say("", messages=[rules, {"role": "user", "content": "one two"}])
    second = say("three")
    assert (first["usage"]["prompt_tokens"], first["conversation_id"]) == (4, "a chat")
    assert second["usage"]["prompt_tokens"] == 4 + 5 + 1
    page = client.get("/api/v1/conversations/a chat").get_json()
    assert [(turn["job_id"], turn["answer"]) for turn in page["data"]] == [
        (job["id"], job["output"]["text"]) for job in (first, second)
    ]
    assert page["data"][0]["messages"] == [rules, {"role": "user", "content": "one two"}]
    assert page["data"][1]["messages"] == [{"role": "user", "content": "three"}]


def test_the_oldest_turns_leave_when_the_context_is_full_but_rules_stay(
    client: FlaskClient, say: Say
) -> None:
    rules = {"role": "system", "content": "be kind"}
    say("", messages=[rules, {"role": "user", "content": "word " * 40}])
    say("word " * 30)
    job = say("end", max_tokens=20)  # of a context of 100, which all 83 words leave too full
    assert job["status"] == "succeeded"
    assert (
        job["usage"]["prompt_tokens"] == 2 + 30 + 5 + 1
    )  # without the first question and its answer
    turns = client.get("/api/v1/conversations/a chat").get_json()["data"]
    assert [len(turn["messages"]) for turn in turns] == [2, 1, 1]


def test_what_was_cancelled_was_not_said(client: FlaskClient, say: Say) -> None:
    say("one")
    body = {"model": "fake", "messages": [{"role": "user", "content": "two"}]}
    waits = client.post("/api/v1/chat", json={**body, "conversation_id": "a chat"}).get_json()
    client.post(f"/api/v1/jobs/{waits['id']}/cancel")
    assert say("three")["usage"]["prompt_tokens"] == 1 + 5 + 1


def test_a_submit_that_is_repeated_is_one_turn(client: FlaskClient, work: Work) -> None:
    body = {
        "model": "fake",
        "conversation_id": "once",
        "messages": [{"role": "user", "content": "one"}],
    }
    for _ in range(2):
        client.post("/api/v1/chat", json=body, headers={"Idempotency-Key": "k"})
        work()
    assert len(client.get("/api/v1/conversations/once").get_json()["data"]) == 1


def test_conversations_are_listed_by_page_and_stay_in_place(client: FlaskClient, say: Say) -> None:
    for name in ("a", "b", "c"):
        say("hi", name)
    first = client.get("/api/v1/conversations?limit=2").get_json()
    assert [each["id"] for each in first["data"]] == ["c", "b"]
    assert (first["has_more"], first["next"]) == (True, "b")
    say("again", "a")  # which moves none of them
    say("hi", "d")
    rest = client.get(f"/api/v1/conversations?limit=2&after={first['next']}").get_json()
    assert [(each["id"], each["jobs"]) for each in rest["data"]] == [("a", 2)]
    assert rest["has_more"] is False
    turns = client.get("/api/v1/conversations/a?limit=1").get_json()
    assert (len(turns["data"]), turns["has_more"]) == (1, True)
    more = client.get(f"/api/v1/conversations/a?after={turns['next']}").get_json()
    assert (len(more["data"]), more["has_more"]) == (1, False)


def test_a_conversation_is_deleted_with_its_texts_but_not_its_charges(
    client: FlaskClient, say: Say, problem: Problem
) -> None:
    jobs = [say(f"word {number}", "gone", max_tokens=1) for number in range(25)]
    kept = say("hi", "kept")
    assert client.delete("/api/v1/conversations/gone").status_code == 204
    problem(client.get("/api/v1/conversations/gone"), 404, "conversation_not_found")
    problem(client.delete("/api/v1/conversations/gone"), 404, "conversation_not_found")
    for job in (jobs[0], jobs[-1]):
        left = client.get(f"/api/v1/jobs/{job['id']}").get_json()
        assert left["output"]["text"] is None
        assert left["charge"] == job["charge"]
    assert client.get(f"/api/v1/jobs/{kept['id']}").get_json() == kept


def test_one_with_a_job_that_waits_is_not_deleted_not_even_in_part(
    client: FlaskClient, problem: Problem, say: Say, submit: Submit
) -> None:
    first, *_ = [say(f"word {number}", "busy", max_tokens=1) for number in range(22)]
    submit("chat", conversation_id="busy")
    problem(client.delete("/api/v1/conversations/busy"), 409, "job_still_runs")
    assert client.get(f"/api/v1/jobs/{first['id']}").get_json() == first


def test_what_is_left_of_a_long_conversation_begins_with_a_question(
    client: FlaskClient, say: Say, database: Database
) -> None:
    say("word " * 40)
    say("word " * 32)
    job = say("end", max_tokens=20)  # without the first question alone it would fit
    with database.transaction() as session:
        messages = session.get_one(Prompt, UUID(job["id"])).messages
    assert [each["role"] for each in messages] == ["user", "assistant", "user"]


@pytest.mark.parametrize("name", ["", "a/b", "a\nb", "/a", "..", "x" * 65])
def test_a_name_that_no_address_can_have_is_refused(
    client: FlaskClient, submit: Submit, problem: Problem, name: str
) -> None:
    problem(submit("chat", conversation_id=name), 422, "invalid_request")


@pytest.mark.parametrize("name", ["a%00b", "a%0Ab", "%F0%9F%8C%8A"])
def test_a_strange_address_is_no_conversation(
    client: FlaskClient, problem: Problem, name: str
) -> None:
    problem(client.get(f"/api/v1/conversations/{name}"), 404, "conversation_not_found")
    problem(client.delete(f"/api/v1/conversations/{name}"), 404, "conversation_not_found")


def test_nobody_sees_anothers_conversation(
    say: Say,
    client_of: Callable[[Customer], FlaskClient],
    new_customer: Callable[..., Customer],
    problem: Problem,
) -> None:
    say("secret", "mine")
    stranger = client_of(new_customer())
    assert stranger.get("/api/v1/conversations").get_json()["data"] == []
    problem(stranger.get("/api/v1/conversations/mine"), 404, "conversation_not_found")
    problem(stranger.delete("/api/v1/conversations/mine"), 404, "conversation_not_found")
    body = {
        "model": "fake",
        "conversation_id": "mine",
        "messages": [{"role": "user", "content": "hi"}],
    }
    assert stranger.post("/api/v1/chat", json=body).get_json()["charge"]["held_micros"] == 41
