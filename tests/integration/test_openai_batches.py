"""Files and batches, as the official SDK of OpenAI sees them, over HTTP."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from flask import Flask
from flask.testing import FlaskClient
from openai import OpenAI
from sqlalchemy import select

from app.billing.tables import Balance
from app.db import Database
from app.jobs.tables import Job
from tests.conftest import CATALOG, Customer
from tests.integration.batching import created, ended, line, names, read, uploaded
from tests.integration.live import maintaining, served, working
from workers.process import Process


@pytest.fixture
def catalog_file(tmp_path: Path) -> Path:
    """A model that is quick, and another."""
    path = tmp_path / "fast.toml"
    fast = CATALOG.replace('source = "fake:"', 'source = "fake:tokens_per_second=2000"', 1)
    path.write_text(fast + CATALOG.split("[models.disabled]")[0].replace("models.fake", "models.b"))
    return path


@pytest.fixture
def address(api: Flask, process: Process) -> Iterator[str]:
    """Where the API, its worker and the feeder are."""
    with served(api) as url, working(process), maintaining(process):
        yield f"{url}/v1"


@pytest.fixture
def sdk(address: str, customer: Customer) -> Iterator[OpenAI]:
    """The SDK as a customer sets it up."""
    with OpenAI(base_url=address, api_key=customer.key) as sdk:
        yield sdk


def test_a_batch_is_done_and_its_lines_come_back_in_order(sdk: OpenAI, client: FlaskClient) -> None:
    lines = [line(f"r{number}", seed=number) for number in range(30)]
    lines[3] = line("too-hot", temperature=7)
    lines[5] = line("too-long", max_tokens=500)
    lines[9] = line("streamed", stream=True)
    lines[11] = line("many", n=2)
    batch = created(sdk, lines, metadata={"nightly": "yes"})
    assert (batch.status, batch.object, batch.model) == ("validating", "batch", None)
    done = ended(sdk, batch)
    assert (done.status, done.model, done.metadata) == ("completed", "fake", {"nightly": "yes"})
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 30, "completed": 26, "failed": 4}
    output, errors = read(sdk, done.output_file_id), read(sdk, done.error_file_id)
    bad = {"too-hot": "temperature", "too-long": "messages", "streamed": "stream", "many": "n"}
    assert names(output) == [each["custom_id"] for each in lines if each["custom_id"] not in bad]
    assert names(errors) == list(bad)
    for each in errors:
        assert each["response"]["status_code"] == 400
        assert each["response"]["body"]["error"]["param"] == bad[each["custom_id"]]
    jobs = client.get("/api/v1/jobs?limit=100").get_json()["data"][::-1]
    assert [each["response"]["body"]["choices"][0]["message"]["content"] for each in output] == [
        job["output"]["text"] for job in jobs
    ]
    assert done.usage is not None
    assert done.usage.total_tokens == sum(job["usage"]["total_tokens"] for job in jobs)
    assert {job["priority"] for job in jobs} == {-50}
    stamps = [done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at]
    assert stamps == sorted(stamps, key=int)  # type: ignore[arg-type]
    assert done.expires_at == done.created_at + 86_400


def test_a_line_costs_half_and_is_charged_once_however_often_it_is_read(
    sdk: OpenAI, database: Database, customer: Customer, client: FlaskClient
) -> None:
    whole = sdk.chat.completions.create(**line("x")["body"])
    done = ended(sdk, created(sdk, [line("a"), line("b")]))
    for _ in range(3):
        output = read(sdk, sdk.batches.retrieve(done.id).output_file_id)
    answer = output[0]["response"]["body"]
    assert answer["choices"][0]["message"]["content"] == whole.choices[0].message.content
    two, one, full = client.get("/api/v1/jobs").get_json()["data"]
    assert one["charge"]["price"] == {
        "input_micros_per_million_tokens": 500_000,
        "output_micros_per_million_tokens": 1_000_000,
    }
    assert one["charge"]["charged_micros"] * 2 - full["charge"]["charged_micros"] in (0, 1)
    with database.transaction() as session:
        balance = session.get_one(Balance, customer.id)
    spent = sum(job["charge"]["charged_micros"] for job in (one, two, full))
    assert (balance.available_micros, balance.held_micros) == (1_000_000 - spent, 0)


def test_a_batch_of_texts_with_log_probabilities(sdk: OpenAI) -> None:
    lines = [line("a", "/v1/completions", logprobs=2), line("b", "/v1/completions")]
    done = ended(sdk, created(sdk, lines, "/v1/completions"))
    first, second = read(sdk, done.output_file_id)
    assert first["response"]["body"]["object"] == "text_completion"
    logprobs = first["response"]["body"]["choices"][0]["logprobs"]
    assert {len(each) for each in logprobs["top_logprobs"]} <= {1, 2}
    assert second["response"]["body"]["choices"][0]["logprobs"] is None


WRONG: dict[str, tuple[list[Any], str, int | None, str | None]] = {
    "empty": ([], "empty_file", None, None),
    "blank": (["", " "], "empty_file", None, None),
    "no-json": ([line("a"), "{"], "invalid_json_line", 2, None),
    "a-list": (["[]"], "invalid_request", 1, None),
    "no-id": ([{**line("a"), "custom_id": None}], "invalid_request", 1, "custom_id"),
    "twice": ([line("a"), "", line("a")], "duplicate_custom_id", 3, "custom_id"),
    "method": ([{**line("a"), "method": "GET"}], "invalid_request", 1, "method"),
    "url": ([line("a", "/v1/completions")], "mismatched_url", 1, "url"),
    "model": ([line("a", model="gpt-9")], "model_not_found", 1, "body.model"),
    "models": ([line("a"), line("b", model="b")], "mismatched_model", 2, "body.model"),
    "no-model": ([line("a", model=None)], "invalid_request", 1, "body.model"),
    "unknown": ([{**line("a"), "x": 1}], "invalid_request", 1, "x"),
    "large": ([line("a"), line("b", user="x" * 2_000_000)], "line_too_large", 2, None),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_is_no_batch_fails_as_a_whole_and_says_where(
    sdk: OpenAI, client: FlaskClient, kind: str
) -> None:
    lines, code, number, param = WRONG[kind]
    done = ended(sdk, created(sdk, lines))
    assert (done.status, done.output_file_id, done.error_file_id) == ("failed", None, None)
    assert done.failed_at is not None
    assert done.errors is not None
    assert done.errors.data is not None
    problem = done.errors.data[0]
    assert (problem.code, problem.line, problem.param) == (code, number, param)
    assert problem.message
    assert client.get("/api/v1/jobs").get_json()["data"] == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"completion_window": "1h"}, "completion_window"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"input_file_id": "file-" + "0" * 32}, "input_file_id"),
        ({"metadata": {"a": "x" * 600}}, "metadata.a"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 5}},
            "output_expires_after.seconds",
        ),
        ({"extra_body": {"priority": 3}}, "priority"),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_what_a_batch_cannot_be_is_refused_by_name(
    sdk: OpenAI, fields: dict[str, Any], param: str
) -> None:
    asked = {
        "input_file_id": uploaded(sdk, [line("a")]),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        **fields,
    }
    with pytest.raises(openai.BadRequestError) as error:
        sdk.batches.create(**asked)  # type: ignore[arg-type]
    assert (error.value.param, error.value.code) == (param, "invalid_request")
    assert list(sdk.batches.list()) == []


def test_another_account_sees_nothing_of_it(
    sdk: OpenAI, address: str, new_customer: Callable[..., Customer]
) -> None:
    done = ended(sdk, created(sdk, [line("a")]))
    assert done.output_file_id is not None
    other = OpenAI(base_url=address, api_key=new_customer().key)
    assert list(other.batches.list()) == list(other.files.list()) == []
    for read_it in (
        lambda: other.batches.retrieve(done.id),
        lambda: other.batches.cancel(done.id),
        lambda: other.files.retrieve(done.input_file_id),
        lambda: other.files.content(str(done.output_file_id)),
        lambda: other.files.delete(str(done.output_file_id)),
    ):
        with pytest.raises(openai.NotFoundError) as error:
            read_it()
        assert error.value.code in {"batch_not_found", "file_not_found"}
    with pytest.raises(openai.BadRequestError):
        other.batches.create(
            input_file_id=done.input_file_id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
        )


def test_batches_are_listed_in_pages(sdk: OpenAI) -> None:
    file_id = uploaded(sdk, [line("a")])
    made = [
        sdk.batches.create(
            input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
        ).id
        for _ in range(5)
    ]
    page = sdk.batches.list(limit=2)
    assert ([each.id for each in page.data], page.has_more) == (made[:2:-1], True)
    assert [each.id for each in sdk.batches.list(limit=2)] == made[::-1]
    with pytest.raises(openai.BadRequestError) as error:
        sdk.batches.list(after="x")
    assert error.value.param == "after"


def test_a_batch_that_was_asked_for_twice_is_one(sdk: OpenAI, database: Database) -> None:
    """The SDK asks again by itself when the connection breaks before the answer."""
    asked: dict[str, Any] = {
        "input_file_id": uploaded(sdk, [line("a")]),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    first = sdk.batches.create(**asked)
    repeated = {"extra_headers": {"x-stainless-retry-count": "1"}}
    assert sdk.batches.create(**asked, **repeated).id == first.id
    assert sdk.batches.create(**asked, metadata={"a": "b"}, **repeated).id != first.id
    assert sdk.batches.create(**asked).id != first.id
    keyed = {"extra_headers": {"Idempotency-Key": "k"}}
    by_key = sdk.batches.create(**asked, **keyed)
    assert sdk.batches.create(**asked, **keyed).id == by_key.id != first.id
    with pytest.raises(openai.ConflictError):
        sdk.batches.create(**asked, metadata={"a": "b"}, **keyed)
    for each in sdk.batches.list():
        ended(sdk, each)
    with database.transaction() as session:
        assert len(session.scalars(select(Job.id)).all()) == 4
