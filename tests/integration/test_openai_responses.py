"""The Responses API, as the official SDK of OpenAI asks it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from flask import Flask
from flask.testing import FlaskClient
from openai import OpenAI

from app.api import create_app
from app.config import Settings
from tests.conftest import CATALOG, Customer
from tests.integration.live import served, working
from workers.process import Process

STEADY = "fake:tokens_per_second=60&answer_tokens=40"


@pytest.fixture
def catalog_file(tmp_path: Path) -> Path:
    """A model that says 40 words, 60 of them a second."""
    path = tmp_path / "steady.toml"
    path.write_text(CATALOG.replace('source = "fake:"', f'source = "{STEADY}"', 1))
    return path


@pytest.fixture
def address(api: Flask) -> Iterator[str]:
    """Where the API is; its worker works only where a test wants it."""
    with served(api) as url:
        yield f"{url}/v1"


@pytest.fixture
def sdk(address: str, customer: Customer) -> Iterator[OpenAI]:
    with OpenAI(base_url=address, api_key=customer.key) as sdk:
        yield sdk


@pytest.fixture
def worker(process: Process) -> Iterator[None]:
    with working(process):
        yield


@pytest.fixture
def job(client: FlaskClient) -> Callable[[], dict[str, Any]]:
    """The newest job."""
    return lambda: client.get("/api/v1/jobs?limit=1").get_json()["data"][0]


@pytest.mark.usefixtures("worker")
def test_a_response_is_a_job_that_the_call_waits_for(sdk: OpenAI, job: Any) -> None:
    answer = sdk.responses.create(
        model="fake",
        instructions="be kind",
        input=[{"role": "user", "content": [{"type": "input_text", "text": "one two"}]}],
        max_output_tokens=64,
        metadata={"a": "b"},
        temperature=0.5,
    )
    made = job()
    assert answer.id == f"resp_{made['id'].replace('-', '')}"
    assert (answer.status, answer.output_text) == ("completed", made["output"]["text"])
    assert (answer.instructions, answer.metadata) == ("be kind", {"a": "b"})
    assert (answer.temperature, answer.max_output_tokens) == (0.5, 64)
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 40)
    assert answer.completed_at is not None
    assert sdk.responses.retrieve(answer.id) == answer


@pytest.mark.usefixtures("worker")
def test_one_that_is_cut_is_incomplete(sdk: OpenAI) -> None:
    answer = sdk.responses.create(model="fake", input="one", max_output_tokens=5)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    last = list(sdk.responses.create(model="fake", input="a", max_output_tokens=5, stream=True))[-1]
    assert last.type == "response.incomplete"


@pytest.mark.usefixtures("worker")
def test_a_stream_has_the_events_of_the_api_in_their_order(sdk: OpenAI) -> None:
    events = list(
        sdk.responses.create(model="fake", input="one", max_output_tokens=64, stream=True)
    )
    kinds = [event.type for event in events]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(deltas),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert len(deltas) >= 3
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    last = events[-1]
    assert last.type == "response.completed"
    assert "".join(event.delta for event in deltas) == last.response.output_text
    assert last.response == sdk.responses.retrieve(last.response.id)
    with sdk.responses.stream(model="fake", input="two", max_output_tokens=64) as stream:
        assert stream.get_final_response().output_text


@pytest.mark.usefixtures("worker")
def test_any_replica_goes_on_after_any_event(
    sdk: OpenAI, settings: Settings, customer: Customer
) -> None:
    stream = sdk.responses.create(model="fake", input="one", max_output_tokens=64, stream=True)
    events = []
    for event in stream:
        events.append(event)
    made = events[0]
    assert made.type == "response.created"
    other = create_app(settings)
    with served(other) as url, OpenAI(base_url=f"{url}/v1", api_key=customer.key) as replica:
        for place in (0, 2, 3, 5, len(events) - 3, len(events) - 1):
            rest = replica.responses.retrieve(
                made.response.id, stream=True, starting_after=events[place].sequence_number
            )
            said = [_without_pieces(each) for each in rest]
            wanted = [_without_pieces(each) for each in events[place + 1 :]]
            assert "".join(text for text, _ in said) == "".join(text for text, _ in wanted)
            assert [kind for text, kind in said if not text] == [
                kind for text, kind in wanted if not text
            ]
    other.extensions["gptqueue"].watchers.close()
    other.extensions["gptqueue"].database.close()


def _without_pieces(event: Any) -> tuple[str, str]:
    return getattr(event, "delta", ""), f"{event.type} {event.sequence_number}"


def test_a_background_response_is_polled_and_read_along(
    sdk: OpenAI, process: Process, job: Any
) -> None:
    made = sdk.responses.create(model="fake", input="one", background=True, max_output_tokens=64)
    assert (made.status, made.background, made.output) == ("queued", True, [])
    assert job()["status"] == "queued"
    with working(process):
        events = list(sdk.responses.retrieve(made.id, stream=True))
    assert events[-1].type == "response.completed"
    assert sdk.responses.retrieve(made.id).output_text == job()["output"]["text"]


def test_a_background_response_is_cancelled(sdk: OpenAI, job: Any) -> None:
    made = sdk.responses.create(model="fake", input="one", background=True)
    assert sdk.responses.cancel(made.id).status == "cancelled"
    assert (job()["status"], job()["charge"]["charged_micros"]) == ("cancelled", 0)
    assert list(sdk.responses.retrieve(made.id, stream=True))[-1].type == "response.cancelled"


def test_a_stream_that_is_left_ends_its_job_but_not_one_in_the_background(
    sdk: OpenAI, job: Any
) -> None:
    for background in (True, False):
        stream = sdk.responses.create(model="fake", input="one", stream=True, background=background)
        next(iter(stream))
        stream.close()
    # On this server a client that is gone is noticed when something is written to it: see
    # tests/acceptance for the real one.
    assert job()["status"] in {"queued", "cancelled"}


@pytest.mark.usefixtures("worker")
def test_a_response_goes_on_from_another_without_its_instructions(sdk: OpenAI, job: Any) -> None:
    first = sdk.responses.create(model="fake", instructions="be kind", input="one two")
    second = sdk.responses.create(
        model="fake", input="three", previous_response_id=first.id, max_output_tokens=5
    )
    assert second.previous_response_id == first.id
    assert second.usage is not None
    words = 2 + len(first.output_text.split()) + 1
    assert second.usage.input_tokens == words
    with pytest.raises(openai.NotFoundError):
        sdk.responses.create(model="fake", input="x", previous_response_id="resp_1")


@pytest.mark.usefixtures("worker")
def test_a_deleted_response_is_gone_but_its_charge_is_not(sdk: OpenAI, job: Any) -> None:
    made = sdk.responses.create(model="fake", input="one")
    charged = job()["charge"]["charged_micros"]
    sdk.responses.delete(made.id)
    for read in (sdk.responses.retrieve, sdk.responses.cancel, sdk.responses.delete):
        with pytest.raises(openai.NotFoundError) as error:
            read(made.id)
        assert error.value.code == "response_not_found"
    left = job()
    assert (left["output"]["text"], left["output"]["truncated"]) == (None, False)
    assert left["charge"]["charged_micros"] == charged > 0


def test_one_that_waits_is_not_deleted(sdk: OpenAI) -> None:
    made = sdk.responses.create(model="fake", input="one", background=True)
    with pytest.raises(openai.ConflictError) as error:
        sdk.with_options(max_retries=0).responses.delete(made.id)
    assert error.value.code == "job_still_runs"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"store": False}, "store"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, None),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"include": ["reasoning.encrypted_content"]}, "include.0"),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_what_is_not_supported_is_refused_by_name(
    sdk: OpenAI, fields: dict[str, Any], param: str | None
) -> None:
    asked: dict[str, Any] = {"model": "fake", "input": "one", **fields}
    with pytest.raises(openai.BadRequestError) as error:
        sdk.responses.create(**asked)
    assert error.value.param == param or (param is None and error.value.param)


def test_nobody_reads_anothers_response_nor_a_job_that_is_none(
    sdk: OpenAI, address: str, client: FlaskClient, new_customer: Callable[..., Customer]
) -> None:
    made = sdk.responses.create(model="fake", input="one", background=True)
    stranger = OpenAI(base_url=address, api_key=new_customer().key)
    with pytest.raises(openai.NotFoundError):
        stranger.responses.retrieve(made.id)
    body = {"model": "fake", "messages": [{"role": "user", "content": "x"}]}
    job_id = client.post("/api/v1/chat", json=body).get_json()["id"]
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve("resp_" + job_id.replace("-", ""))
