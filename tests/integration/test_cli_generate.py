"""``gptqueue generate`` and ``gptqueue chat`` against the API over HTTP, with a worker."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from app.db import Database
from app.jobs.handback import hand_back
from app.jobs.tables import Job, Prompt
from app.jobs.transition import Lease
from tests.acceptance.batch import Server
from tests.conftest import CATALOG, Customer
from tests.integration.commands import Commands, await_true, bad_line, ended, first
from workers.process import Process

Jobs = Callable[[], list[dict[str, Any]]]
SLOW = "fake:tokens_per_second=20&answer_tokens=60"


@pytest.fixture
def source() -> str:
    """How the model behaves: it has three seconds of words in it."""
    return SLOW


@pytest.fixture
def catalog_file(tmp_path: Path, source: str) -> Path:
    """A catalog with that model."""
    path = tmp_path / "slow.toml"
    path.write_text(CATALOG.replace('source = "fake:"', f'source = "{source}"', 1))
    return path


@pytest.fixture
def jobs(client: FlaskClient) -> Jobs:
    """The jobs that there are, the newest first."""
    return lambda: client.get("/api/v1/jobs").get_json()["data"]


def test_a_prompt_is_answered_and_the_text_comes_as_it_is_written(
    gptqueue: Commands, jobs: Jobs
) -> None:
    running = gptqueue.start("generate", "one two three", "--max-tokens", "20", "--cost")
    begun = first(running)
    assert jobs()[0]["status"] == "running"
    code, rest, errors = ended(running)
    [job] = jobs()
    assert (code, job["status"]) == (0, "succeeded")
    assert begun + rest == job["output"]["text"] + "\n"
    assert errors == "3 prompt + 20 completion tokens, 0.000043 USD\n"
    assert job["charge"]["charged_micros"] == 43


def test_options_reach_the_job(gptqueue: Commands, database: Database) -> None:
    said = ["chat", "one", "--max-tokens", "3", "--temperature", "0.5", "--top-p", "0.9"]
    more = ["--seed", "7", "--stop", "xx", "--stop", "yy", "--system", "be brief", "--model"]
    code, _, errors = gptqueue.run(*said, *more, "fake", "--no-stream")
    assert code == 0, errors
    with database.transaction() as session:
        job, prompt = session.scalars(select(Job)).one(), session.scalars(select(Prompt)).one()
    expected = {"max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["xx", "yy"]}
    assert {name: job.parameters[name] for name in expected} == expected
    roles = [(each["role"], each["content"]) for each in prompt.messages or ()]
    assert roles == [("system", "be brief"), ("user", "one")]


def test_a_system_message_makes_a_chat_of_a_prompt(gptqueue: Commands, jobs: Jobs) -> None:
    assert gptqueue.run("generate", "one", "-s", "brief", "--max-tokens", "2")[0] == 0
    assert jobs()[0]["kind"] == "chat"


def test_as_json_it_is_the_job_as_the_api_gives_it(gptqueue: Commands, client: FlaskClient) -> None:
    code, output, errors = gptqueue.run("generate", "one two", "--max-tokens", "3", "--json")
    assert (code, errors, output.count("\n")) == (0, "", 1)
    job = json.loads(output)
    assert job == client.get(f"/api/v1/jobs/{job['id']}").get_json()


def test_the_text_is_the_same_however_it_is_asked_for(gptqueue: Commands, jobs: Jobs) -> None:
    words = ("--seed", "3", "--max-tokens", "5")
    streamed = gptqueue.run("chat", "one two", *words)
    whole = gptqueue.run("chat", "one two", *words, "--no-stream")
    piped = gptqueue.run("chat", *words, said="one two\n")
    dashed = gptqueue.run("chat", "-", *words, said="one two")
    assert streamed == whole == piped == dashed
    assert streamed[1] == jobs()[0]["output"]["text"] + "\n"


def test_ctrl_c_cancels_the_job_and_says_so(gptqueue: Commands, jobs: Jobs) -> None:
    running = gptqueue.start("generate", "one two three", "--max-tokens", "60")
    begun = first(running)
    running.send_signal(signal.SIGINT)
    code, rest, errors = ended(running)
    [job] = jobs()
    assert (code, job["status"]) == (130, "cancelled")
    assert f"Interrupted: the job {job['id']} is cancelled; 3 prompt + " in errors
    assert (begun + rest).strip()
    assert 0 < job["usage"]["completion_tokens"] < 60
    assert job["charge"]["charged_micros"] == 3 + 2 * job["usage"]["completion_tokens"]


def test_a_disk_that_is_full_is_told(gptqueue: Commands) -> None:
    with Path("/dev/full").open("w") as full:
        code, _, errors = ended(gptqueue.start("models", output=full))
    assert (code, errors) == (2, "gptqueue: standard output: No space left on device.\n")


def test_a_reader_that_has_seen_enough_is_no_fault(gptqueue: Commands) -> None:
    with gptqueue.start("models", "--json") as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stderr is not None
        assert running.stderr.read() == ""
    assert running.returncode == 1


def test_sigterm_cancels_as_well(gptqueue: Commands, jobs: Jobs) -> None:
    running = gptqueue.start("generate", "one two three", "--max-tokens", "60", "--json")
    await_true(lambda: jobs() and jobs()[0]["status"] == "running")
    running.terminate()
    code, output, _ = ended(running)
    assert (code, json.loads(output)["status"]) == (130, "cancelled")
    assert jobs()[0]["status"] == "cancelled"


def test_ctrl_c_in_the_middle_of_a_submit_leaves_no_job_behind(
    environment: dict[str, str], jobs: Jobs
) -> None:
    with bad_line(environment["GPTQUEUE_URL"]) as (line, address):
        line.delay_answers = 0.5
        running = Commands({**environment, "GPTQUEUE_URL": address}).start(
            "generate", "one", "-m", "fake", "--max-tokens", "60"
        )
        await_true(lambda: line.count("POST", "/generate") and jobs())
        running.send_signal(signal.SIGINT)
        code, _, errors = ended(running)
    assert (code, [job["status"] for job in jobs()]) == (130, ["cancelled"]), errors


def test_a_submit_whose_answer_is_lost_is_done_once(
    environment: dict[str, str], jobs: Jobs
) -> None:
    with bad_line(environment["GPTQUEUE_URL"]) as (line, address):
        line.lose_answers = 2
        code, output, errors = Commands({**environment, "GPTQUEUE_URL": address}).run(
            "generate", "one", "--max-tokens", "2"
        )
        keys = {sent["Idempotency-Key"] for verb, _, sent in line.asked if verb == "POST"}
    assert code == 0, errors
    [job] = jobs()
    assert (line.count("POST", "/generate"), len(keys)) == (3, 1)
    assert output == job["output"]["text"] + "\n"


def test_a_stream_that_breaks_off_goes_on_where_it_was(
    environment: dict[str, str], jobs: Jobs
) -> None:
    with bad_line(environment["GPTQUEUE_URL"]) as (line, address):
        line.cut_streams = 2
        code, output, errors = Commands({**environment, "GPTQUEUE_URL": address}).run(
            "generate", "one two three", "--max-tokens", "40"
        )
    assert code == 0, errors
    assert output == jobs()[0]["output"]["text"] + "\n"
    assert line.count("GET", "/events") >= 3
    last = [headers.get("Last-Event-ID") for _, path, headers in line.asked if "events" in path]
    assert last[0] is None
    assert last[-1]


def test_a_job_that_begins_again_is_printed_anew(
    gptqueue: Commands, jobs: Jobs, database: Database
) -> None:
    running = gptqueue.start("generate", "one two three", "--max-tokens", "30", "--seed", "1")
    begun = first(running)
    [job] = jobs()
    with database.transaction() as session:
        hand_back(session, [Lease(job["id"], 1)], base_url="http://x")
    code, rest, errors = ended(running)
    before, _, second = (begun + rest).partition("\n")
    text = jobs()[0]["output"]["text"]
    assert (code, second) == (0, text + "\n")
    assert text.startswith(before)
    assert "The job begins again, for the second time:" in errors


@pytest.fixture
def server(api: Flask, process: Process, environment: dict[str, str]) -> Iterator[Server]:
    """Another address of the API, which can be stopped and started."""
    server = Server(api)
    server.start()
    environment["GPTQUEUE_URL"] = server.url
    yield server
    server.stop()


@pytest.mark.parametrize("how", ["--cost", "--no-stream", "--json"])
def test_an_api_that_is_started_again_costs_only_time(
    gptqueue: Commands, server: Server, jobs: Jobs, how: str
) -> None:
    running = gptqueue.start("generate", "one two three", "--max-tokens", "30", how)
    await_true(lambda: jobs() and jobs()[0]["status"] == "running")
    server.stop()
    time.sleep(0.5)
    server.start()
    code, output, errors = ended(running)
    assert code == 0, errors
    assert jobs()[0]["output"]["text"] in output


def test_ctrl_c_without_an_api_says_that_the_job_goes_on(
    gptqueue: Commands, server: Server, jobs: Jobs
) -> None:
    running = gptqueue.start("generate", "one two three", "--max-tokens", "60")
    first(running)
    server.stop()
    running.send_signal(signal.SIGINT)
    code, _, errors = ended(running)
    server.start()
    assert (code, f"the job {jobs()[0]['id']} goes on: " in errors) == (130, True), errors


@pytest.mark.parametrize("source", ["fake:fail_every=1"])
def test_a_job_that_fails_is_told_and_exits_with_1(gptqueue: Commands, jobs: Jobs) -> None:
    code, output, errors = gptqueue.run("generate", "one")
    assert (code, output) == (1, "")
    reason = "failed: The fake engine was told to fail."
    assert errors == f"gptqueue: The job {jobs()[0]['id']} {reason}\n"


@pytest.mark.parametrize(
    ("change", "words", "code", "said"),
    [
        ({}, ["generate", "x", "-m", "unknown"], 2, "There are: fake."),
        ({}, ["generate", "x", "--temperature", "9"], 2, "temperature: "),
        ({}, ["generate", "x", "--max-tokens", "199"], 2, "context"),
        ({}, ["generate"], 2, "Standard input is empty."),
        ({}, ["jobs", "show", "01a1fc3a-29da-74b5-9ef5-fd778ec0e681"], 1, "no such job"),
        ({}, ["generate", "x", "--nonsense"], 2, "No such option: --nonsense"),
        ({"GPTQUEUE_API_KEY": "gq_wrong"}, ["models"], 2, "Set GPTQUEUE_API_KEY"),
        ({"GPTQUEUE_API_KEY": "ü"}, ["models"], 2, "characters that no key has"),
        ({"GPTQUEUE_API_KEY": ""}, ["models"], 2, "GPTQUEUE_API_KEY is not set"),
        ({"GPTQUEUE_URL": ""}, ["models"], 2, "GPTQUEUE_URL is not set"),
        ({"GPTQUEUE_URL": "http://127.0.0.1:1"}, ["models"], 2, "nothing listens there"),
        ({"GPTQUEUE_URL": "nonsense"}, ["models"], 2, "is no address of an API"),
        ({"GPTQUEUE_URL": "http://no.invalid"}, ["models"], 2, "does not resolve"),
    ],
)
def test_what_goes_wrong_is_one_line_with_an_exit_code(
    environment: dict[str, str], change: dict[str, str], words: list[str], code: int, said: str
) -> None:
    found, output, errors = Commands({**environment, **change}).run(*words)
    assert (found, output) == (code, "")
    assert said in errors
    assert errors.startswith("gptqueue: ")
    assert errors.count("\n") == 1


def test_without_credit_it_exits_with_1(
    environment: dict[str, str], new_customer: Callable[..., Customer]
) -> None:
    poor = new_customer(credit_micros=1)
    code, _, errors = Commands({**environment, "GPTQUEUE_API_KEY": poor.key}).run("generate", "x")
    assert (code, "credit" in errors) == (1, True)
