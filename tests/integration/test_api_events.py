"""Jobs as server-sent events."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.api import create_app
from app.config import Settings
from app.jobs.transition import Lease
from tests.conftest import CATALOG, Customer
from tests.integration.conftest import Problem, Submit
from workers.process import Process

Work = Callable[[], None]
SLOW = "fake:tokens_per_second=30&answer_tokens=30"


@dataclass
class Heard:
    """One event."""

    name: str
    data: dict[str, Any]
    id: str


@pytest.fixture
def catalog_file(tmp_path: Path) -> Path:
    """A model that takes a second for its 30 words."""
    path = tmp_path / "slow.toml"
    path.write_text(CATALOG.replace('source = "fake:"', f'source = "{SLOW}"', 1))
    return path


@pytest.fixture
def working(work: Work) -> Callable[[], threading.Thread]:
    """Do the next job, in a thread."""

    def start() -> threading.Thread:
        thread = threading.Thread(target=work)
        thread.start()
        return thread

    return start


def listen(client: FlaskClient, job_id: str, last: str | None = None) -> Iterator[Heard]:
    """The events of a job as they come."""
    headers = {} if last is None else {"Last-Event-ID": last}
    response = client.get(f"/api/v1/jobs/{job_id}/events", headers=headers, buffered=False)
    assert response.status_code == 200, response.get_data()
    assert response.mimetype == "text/event-stream"
    text = ""
    for chunk in response.response:
        text += chunk.decode() if isinstance(chunk, bytes) else chunk
        while "\n\n" in text:
            block, _, text = text.partition("\n\n")
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if "event" in fields:
                yield Heard(fields["event"], json.loads(fields["data"]), fields.get("id", ""))
    response.close()


def text_of(events: list[Heard]) -> str:
    """The deltas joined; they follow one another without a gap."""
    text = ""
    for each in events:
        if each.name == "delta":
            assert each.data["offset"] == len(text)
            text += each.data["text"]
            assert each.id == f"{each.data['attempt']}:{len(text)}"
    return text


def test_a_stream_tells_how_the_job_stands_its_text_as_it_grows_and_its_end(
    client: FlaskClient, submit: Submit, working: Callable[[], threading.Thread]
) -> None:
    job = submit(max_tokens=30, seed=1).get_json()
    stream = listen(client, job["id"])
    first = next(stream)
    assert (first.name, first.data["status"], first.data["attempt"]) == ("status", "queued", 0)
    assert first.data["waiting"] == {"reason": "in_queue", "position": 0, "eta_seconds": None}
    thread = working()
    events = list(stream)
    thread.join()
    names = [each.name for each in events]
    assert names == ["status", *["delta"] * (len(names) - 2), "end"]
    assert events[0].data == {"status": "running", "attempt": 1, "waiting": None}
    assert names.count("delta") >= 5
    end = events[-1]
    assert (end.id, end.data["status"]) == ("end", "succeeded")
    assert text_of(events) == end.data["output"]["text"]
    assert end.data == client.get(f"/api/v1/jobs/{job['id']}").get_json()


def test_after_the_end_the_stream_can_be_read_from_any_place(
    client: FlaskClient, submit: Submit, work: Work
) -> None:
    job = submit(max_tokens=30, seed=1).get_json()
    work()
    delta, end = listen(client, job["id"])
    text = delta.data["text"]
    assert (delta.id, end.name) == (f"1:{len(text)}", "end")
    rest, _ = listen(client, job["id"], last="1:9")
    assert (rest.data["text"], rest.data["offset"]) == (text[9:], 9)
    assert [each.name for each in listen(client, job["id"], last=delta.id)] == ["end"]
    # What another attempt said, or nobody, is no place in this text.
    for strange in ("2:9", "nonsense", "1:99999999999999"):
        assert next(listen(client, job["id"], last=strange)).data["text"] == text
    answer = client.get(f"/api/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": "end"})
    assert (answer.status_code, answer.data) == (204, b"")


def test_another_replica_goes_on_where_the_first_was_left(
    client: FlaskClient,
    submit: Submit,
    settings: Settings,
    customer: Customer,
    working: Callable[[], threading.Thread],
) -> None:
    other = create_app(settings)
    job = submit(max_tokens=30, seed=1).get_json()
    thread = working()
    heard = []
    stream = listen(client, job["id"])
    while sum(each.name == "delta" for each in heard) < 2:
        heard.append(next(stream))
    stream.close()
    replica = other.test_client()
    replica.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {customer.key}"
    heard += listen(replica, job["id"], last=heard[-1].id)
    thread.join()
    assert len([each for each in heard if each.name == "delta"]) >= 4
    assert text_of(heard) == heard[-1].data["output"]["text"]
    other.extensions["gptqueue"].watchers.close()
    other.extensions["gptqueue"].database.close()


def test_without_a_broker_the_text_comes_whole_with_the_end(
    api: Flask,
    client: FlaskClient,
    submit: Submit,
    process: Process,
    working: Callable[[], threading.Thread],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = submit(max_tokens=30, seed=1).get_json()
    for broker in (api.extensions["gptqueue"].broker, process.broker):
        monkeypatch.setattr(broker, "publish", list)
    thread = working()
    events = list(listen(client, job["id"]))
    thread.join()
    assert [each.name for each in events if each.name != "status"] == ["delta", "end"]
    assert text_of(events) == events[-1].data["output"]["text"]


def test_text_that_gets_lost_on_the_way_is_asked_for_again(
    client: FlaskClient,
    submit: Submit,
    process: Process,
    working: Callable[[], threading.Thread],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish, said = process.broker.publish, []

    def lossy(messages: Iterable[tuple[str, str]]) -> None:
        found = list(messages)
        said.append(found)
        if len(said) != 3:
            publish(found)

    monkeypatch.setattr(process.broker, "publish", lossy)
    job = submit(max_tokens=30, seed=1).get_json()
    thread = working()
    events = list(listen(client, job["id"]))
    thread.join()
    assert text_of(events) == events[-1].data["output"]["text"]
    # Without asking, all that came after the loss would come at once, with the end.
    assert [each.name for each in events].count("delta") >= 5


def test_an_attempt_that_was_lost_begins_anew(
    client: FlaskClient,
    submit: Submit,
    process: Process,
    working: Callable[[], threading.Thread],
) -> None:
    job = submit(max_tokens=30).get_json()
    thread = working()
    stream = listen(client, job["id"])
    heard = [next(stream) for _ in range(4)]
    serving = process.servings["generate.fake"]
    lease: Lease = next(iter(serving.heartbeat._held()))
    process.lose(lease)
    serving._engine.cancel(f"{lease.job_id}:{lease.attempt}")
    thread.join()
    again = working()
    events = [*heard, *stream]
    again.join()
    second = [each for each in events if each.name != "delta" or each.data["attempt"] == 2]
    assert text_of(second) == events[-1].data["output"]["text"]
    assert {each.data["attempt"] for each in events if each.name == "delta"} == {1, 2}
    assert events[-1].data["attempts"][0]["outcome"] == "lost"


def test_the_stream_of_somebody_elses_job_is_not_there(
    client_of: Callable[[Customer], FlaskClient],
    new_customer: Callable[..., Customer],
    submit: Submit,
    problem: Problem,
) -> None:
    job = submit().get_json()
    stranger = client_of(new_customer())
    for job_id in (job["id"], uuid4(), "nonsense"):
        problem(stranger.get(f"/api/v1/jobs/{job_id}/events"), 404, "job_not_found")
