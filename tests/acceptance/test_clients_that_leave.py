"""Clients that go away in the middle: nothing is lost, nothing goes on for nobody, nothing is paid
twice.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from openai import OpenAI
from websockets.sync.client import connect

from tests.acceptance.stack import Client, Json, Part, eventually

pytestmark = pytest.mark.usefixtures("api", "sweeping", "worker")

CHAT = [{"role": "user", "content": "one two three"}]
LONG = {"model": "fake", "messages": CHAT, "max_tokens": 2000}  # 100 seconds


@pytest.fixture
def sdk(me: Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{me.url}/v1", api_key=me.key, max_retries=0) as sdk:
        yield sdk


@pytest.fixture(autouse=True)
def _ready(me: Client, worker: Part) -> None:
    eventually(lambda: worker.events("model_ready"), "the model is loaded")


def newest(me: Client) -> Json:
    return me.get("jobs?limit=1")["data"][0]


def post(me: Client, body: Json, **headers: str) -> requests.Response:
    """A call that is given up after two seconds without a word."""
    return me.session.post(
        f"{me.url}/v1/chat/completions", json=body, headers=headers, timeout=2, stream=True
    )


def test_a_call_whose_client_leaves_is_cancelled_and_pays_for_what_was_generated(
    me: Client,
) -> None:
    with pytest.raises(requests.ReadTimeout):
        post(me, LONG)
    job = me.until(newest(me)["id"], "cancelled")
    assert 0 < job["usage"]["completion_tokens"] < 200
    assert job["charge"]["state"] == "charged"


def test_a_call_whose_client_can_come_back_goes_on(me: Client) -> None:
    body = {**LONG, "max_tokens": 80}  # 4 seconds
    key = {"Idempotency-Key": "comes-back"}
    with pytest.raises(requests.ReadTimeout):
        post(me, body, **key)
    job = newest(me)
    answer = me.session.post(
        f"{me.url}/v1/chat/completions", json=body, headers=key, timeout=60
    ).json()
    assert answer["id"] == f"chatcmpl-{job['id'].replace('-', '')}"
    assert answer["usage"]["completion_tokens"] == 80
    assert newest(me)["id"] == job["id"]


@pytest.mark.parametrize("choices", [1, 2])
def test_a_stream_that_is_left_ends_its_jobs(me: Client, sdk: OpenAI, choices: int) -> None:
    asked: dict[str, Any] = {**LONG, "n": choices}
    stream = sdk.chat.completions.create(**asked, stream=True)
    said = [chunk for chunk, _ in zip(stream, range(8), strict=False)]
    stream.close()
    assert any(choice.delta.content for chunk in said for choice in chunk.choices)
    for job in me.get(f"jobs?limit={choices}")["data"]:
        assert me.until(job["id"], "cancelled")["charge"]["charged_micros"] > 0


def test_a_stream_is_left_while_its_job_still_waits(me: Client) -> None:
    """No worker serves this model here."""
    with pytest.raises(requests.ReadTimeout):
        next(post(me, {**LONG, "model": "lonely"}).iter_lines())
    stream = post(me, {**LONG, "model": "lonely", "stream": True})
    next(stream.iter_lines())
    stream.close()
    for job in me.get("jobs?limit=2")["data"]:
        assert me.until(job["id"], "cancelled")["charge"]["charged_micros"] == 0


def test_a_reader_of_events_that_leaves_stops_nothing(me: Client) -> None:
    job_id = me.submit(max_tokens=60)  # 3 seconds
    url = f"{me.url}/api/v1/jobs/{job_id}/events"
    with me.session.get(url, stream=True, timeout=60) as stream:
        lines: Iterator[bytes] = stream.iter_lines()
        last = next(line for line in lines if line.startswith(b"id: 1:"))
    position = last.removeprefix(b"id: ").decode()
    rest = me.session.get(url, headers={"Last-Event-ID": position}, timeout=60).text
    assert "event: end" in rest
    assert f'"offset": {position.removeprefix("1:")}' in rest
    assert me.job(job_id)["status"] == "succeeded"


def test_a_worker_that_dies_under_a_stream_is_not_noticed_by_its_reader(
    me: Client, sdk: OpenAI, new_worker: Callable[[], Any]
) -> None:
    """The job begins again elsewhere, with the same seed, and the text goes on where it was."""
    stream = sdk.chat.completions.create(model="fragile", messages=CHAT, max_tokens=60, stream=True)
    worker = new_worker()
    chunks = []
    for chunk in stream:
        chunks.append(chunk)
        if len(chunks) == 6:
            worker.kill()
            worker.start()
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    job = newest(me)
    assert [each["outcome"] for each in job["attempts"]] == ["lost", "succeeded"]
    assert text == job["output"]["text"]
    assert job["usage"]["completion_tokens"] == 60


@pytest.fixture
def new_worker(stack: Any) -> Callable[[], Any]:
    def start() -> Any:
        worker = stack.worker("fragile")
        eventually(lambda: worker.events("model_ready"), "the model is loaded")
        return worker

    return start


def test_a_websocket_is_told_to_the_end_and_one_that_is_left_disturbs_nobody(me: Client) -> None:
    job_id = me.submit(max_tokens=40)
    address = f"{me.url.replace('http', 'ws')}/api/v1/jobs/{job_id}/ws"
    with connect(address, additional_headers={"Authorization": f"Bearer {me.key}"}) as left:
        left.recv()
    with connect(address, additional_headers={"Authorization": f"Bearer {me.key}"}) as socket:
        messages = [json.loads(message) for message in socket]
    assert messages[-1]["data"]["status"] == "succeeded"
    said = "".join(each["data"]["text"] for each in messages if each["event"] == "delta")
    assert said == me.job(job_id)["output"]["text"]
