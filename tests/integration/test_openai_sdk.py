"""What the official SDK of OpenAI gets, over HTTP."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from flask import Flask
from flask.testing import FlaskClient
from openai import OpenAI

from app.accounts import admin
from app.db import Database
from tests.conftest import CATALOG, Customer
from tests.integration.live import served, working
from workers.process import Process

FAST = "fake:tokens_per_second=100"
IMAGE = {"type": "image_url", "image_url": {"url": "http://example.com/"}}
CHAT = [{"role": "user", "content": "one two three"}]


@pytest.fixture
def catalog_file(tmp_path: Path) -> Path:
    """A model with 100 words a second."""
    path = tmp_path / "fast.toml"
    path.write_text(CATALOG.replace('source = "fake:"', f'source = "{FAST}"', 1))
    return path


@pytest.fixture
def address(api: Flask, process: Process) -> Iterator[str]:
    """Where the API and its worker are."""
    with served(api) as url, working(process):
        yield f"{url}/v1"


@pytest.fixture
def sdk(address: str, customer: Customer) -> Iterator[OpenAI]:
    """The SDK as a customer sets it up, with its own repetitions of failed calls."""
    with OpenAI(base_url=address, api_key=customer.key) as sdk:
        yield sdk


@pytest.fixture
def top_up(database: Database) -> Callable[[Customer], None]:
    """Give an account more credit."""

    def give(customer: Customer) -> None:
        with database.transaction() as session:
            admin.grant_credit(session, account_id=customer.id, amount_micros=1000)

    return give


@pytest.fixture
def jobs(client: FlaskClient) -> Callable[[], list[dict[str, Any]]]:
    """The jobs that there are, the oldest first."""
    return lambda: client.get("/api/v1/jobs?limit=100").get_json()["data"][::-1]


def test_models_are_listed_and_read(sdk: OpenAI) -> None:
    (model,) = sdk.models.list()
    assert (model.id, model.object, model.owned_by) == ("fake", "model", "gptqueue")
    assert sdk.models.retrieve("fake") == model
    with pytest.raises(openai.NotFoundError) as error:
        sdk.models.retrieve("gpt-9")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


def test_a_chat_is_a_job_that_the_call_waits_for(sdk: OpenAI, jobs: Callable[[], Any]) -> None:
    answer = sdk.chat.completions.create(
        model="fake",
        messages=[{"role": "developer", "content": "be kind"}, *CHAT],
        max_completion_tokens=7,
        seed=1,
        user="ada",
    )
    (job,) = jobs()
    (choice,) = answer.choices
    assert choice.message.content == job["output"]["text"]
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    assert answer.id == f"chatcmpl-{job['id'].replace('-', '')}"
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_none=True) == job["usage"]
    assert (job["kind"], job["metadata"]) == ("chat", {"user": "ada"})


def test_the_answer_says_which_job_it_was_and_what_it_cost(sdk: OpenAI, jobs: Any) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model="fake", messages=CHAT, n=2)
    first, second = jobs()
    assert raw.headers["x-gptqueue-job-ids"] == f"{first['id']},{second['id']}"
    charged = first["charge"]["charged_micros"] + second["charge"]["charged_micros"]
    assert raw.headers["x-gptqueue-charged-micros"] == str(charged)


def test_choices_are_jobs_with_seeds_of_their_own(sdk: OpenAI, jobs: Callable[[], Any]) -> None:
    answer = sdk.chat.completions.create(model="fake", messages=CHAT, n=4, seed=5)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len(set(texts)) == 4
    assert texts == [job["output"]["text"] for job in jobs()]
    assert answer.usage is not None
    assert answer.usage.total_tokens == sum(job["usage"]["total_tokens"] for job in jobs())
    again = sdk.chat.completions.create(model="fake", messages=CHAT, n=4, seed=5)
    assert [choice.message.content for choice in again.choices] == texts


@pytest.mark.parametrize("n", [1, 3])
def test_a_chat_is_streamed_as_it_grows(sdk: OpenAI, n: int) -> None:
    asked: dict[str, Any] = {"model": "fake", "messages": CHAT, "seed": 2, "n": n}
    asked["max_tokens"] = 64
    whole = sdk.chat.completions.create(**asked)
    texts = dict.fromkeys(range(n), "")
    ends: dict[int, str | None] = {}
    pieces = 0
    usage = None
    stream = sdk.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        assert usage is None, "the usage comes last"
        usage = chunk.usage
        for choice in chunk.choices:
            assert choice.index not in ends
            texts[choice.index] += choice.delta.content or ""
            pieces += bool(choice.delta.content)
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert list(texts.values()) == [choice.message.content for choice in whole.choices]
    assert set(ends.values()) == {"stop"}
    assert pieces > n, "the text came whole"
    assert usage == whole.usage


def test_a_completion_goes_on_plain_and_streamed(sdk: OpenAI, jobs: Callable[[], Any]) -> None:
    asked: dict[str, Any] = {"model": "fake", "prompt": "one two", "max_tokens": 12, "seed": 3}
    whole = sdk.completions.create(**asked)
    assert (whole.object, whole.choices[0].finish_reason) == ("text_completion", "length")
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12
    chunks = list(sdk.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"
    assert {job["kind"] for job in jobs()} == {"complete"}


def test_stop_strings_end_the_text(sdk: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "fake", "messages": CHAT, "seed": 2}
    text = sdk.chat.completions.create(**asked).choices[0].message.content
    assert text is not None
    word = text.split()[3]
    for stop in (f" {word}", [f" {word}", "never"]):
        (choice,) = sdk.chat.completions.create(**asked, stop=stop).choices
        assert choice.message.content == text[: text.index(f" {word}")]
        assert choice.finish_reason == "stop"


def test_log_probabilities_have_both_forms(sdk: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "fake", "seed": 2, "max_tokens": 5}
    chat = sdk.chat.completions.create(**asked, messages=CHAT, logprobs=True, top_logprobs=2)
    (choice,) = chat.choices
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content is not None
    assert "".join(each.token for each in content) == choice.message.content
    assert [len(each.top_logprobs) for each in content] == [2] * 5
    assert bytes(content[1].bytes or []).decode() == content[1].token
    streamed = list(
        sdk.chat.completions.create(
            **asked, messages=CHAT, logprobs=True, top_logprobs=2, stream=True
        )
    )
    assert streamed[-1].choices[0].logprobs is not None
    assert streamed[-1].choices[0].logprobs.content == content
    text = sdk.completions.create(**asked, prompt="one", logprobs=3).choices[0]
    assert text.logprobs is not None
    assert text.logprobs.tokens is not None
    assert text.logprobs.text_offset is not None
    assert text.text[text.logprobs.text_offset[2] :].startswith(text.logprobs.tokens[2])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"n": 5}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"store": True}, "store"),
        ({"extra_body": {"tempreature": 1}}, "tempreature"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages.0.role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
        ),
        ({"messages": []}, "messages"),
        ({"user": "u", "metadata": {str(n): "" for n in range(16)}}, "metadata"),
        ({"max_tokens": 500}, "messages"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_completion_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"model": "gpt-9"}, "model"),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_what_is_not_supported_is_refused_by_name(
    sdk: OpenAI, jobs: Callable[[], Any], fields: dict[str, Any], param: str | None
) -> None:
    asked: dict[str, Any] = {"model": "fake", "messages": CHAT, **fields}
    wanted = openai.NotFoundError if fields.get("model") else openai.BadRequestError
    with pytest.raises(wanted) as error:
        sdk.chat.completions.create(**asked)
    assert error.value.param == param
    assert error.value.code
    assert error.value.request_id
    assert jobs() == []


def test_a_prompt_that_is_too_long_is_named_as_it_was_sent(sdk: OpenAI) -> None:
    text = "word " * 200
    for create, name in (
        (lambda: sdk.completions.create(model="fake", prompt=text), "prompt"),
        (lambda: sdk.responses.create(model="fake", input=text), "input"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            create()
        assert (error.value.code, error.value.param) == ("context_length_exceeded", name)


def test_what_asks_for_nothing_is_taken(sdk: OpenAI, jobs: Callable[[], Any]) -> None:
    """As other clients send it: null, empty, or the default."""
    nothing: dict[str, Any] = {
        "tools": [],
        "tool_choice": "auto",
        "logit_bias": {},
        "modalities": ["text"],
        "response_format": {"type": "text"},
        "top_p": None,
        "stop": None,
        "service_tier": "auto",
        "store": False,
        "parallel_tool_calls": True,
        "prompt_cache_key": "x",
    }
    first = sdk.chat.completions.create(model="fake", messages=CHAT, **nothing)
    said = first.choices[0].message.model_dump()
    parts = {"role": "user", "content": [{"type": "text", "text": "and"}]}
    sdk.chat.completions.create(model="fake", messages=[*CHAT, said, parts])
    assert len(jobs()) == 2


def test_errors_have_the_classes_of_the_sdk(
    sdk: OpenAI,
    address: str,
    new_customer: Callable[..., Customer],
    jobs: Callable[[], Any],
) -> None:
    poor = OpenAI(base_url=address, api_key=new_customer(credit_micros=1).key)
    with pytest.raises(openai.RateLimitError) as quota:
        poor.chat.completions.create(model="fake", messages=CHAT)
    assert (quota.value.code, quota.value.type) == ("insufficient_quota", "insufficient_quota")
    nobody = OpenAI(base_url=address, api_key="gq_nonsense")
    with pytest.raises(openai.AuthenticationError) as key:
        nobody.chat.completions.create(model="fake", messages=CHAT)
    assert key.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError):
        sdk.embeddings.create(model="fake", input="x")
    assert jobs() == []


def test_choices_are_taken_all_or_none_and_a_key_is_spent_only_then(
    address: str,
    new_customer: Callable[..., Customer],
    client_of: Callable[[Customer], FlaskClient],
    top_up: Callable[[Customer], None],
) -> None:
    customer = new_customer(credit_micros=20)  # a choice holds 13
    asked: dict[str, Any] = {"model": "fake", "messages": CHAT, "max_tokens": 5, "n": 2}
    key = {"Idempotency-Key": "twice"}
    with OpenAI(base_url=address, api_key=customer.key) as sdk:
        with pytest.raises(openai.RateLimitError):
            sdk.chat.completions.create(**asked, extra_headers=key)
        assert client_of(customer).get("/api/v1/jobs").get_json()["data"] == []
        top_up(customer)
        first = sdk.chat.completions.create(**asked, extra_headers=key)
        assert sdk.chat.completions.create(**asked, extra_headers=key) == first
    assert len(client_of(customer).get("/api/v1/jobs").get_json()["data"]) == 2


def test_a_choice_that_fails_ends_the_others(
    client: FlaskClient, api: Flask, customer: Customer, jobs: Callable[[], Any]
) -> None:
    """Without a worker: the first is cancelled by hand, and the others then by the call."""
    with served(api) as url, OpenAI(base_url=f"{url}/v1", api_key=customer.key) as sdk:
        asked: dict[str, Any] = {"model": "fake", "messages": CHAT, "n": 3}
        stream = sdk.chat.completions.create(**asked, stream=True)
        next(iter(stream))
        client.post(f"/api/v1/jobs/{jobs()[1]['id']}/cancel")
        with pytest.raises(openai.APIError) as error:
            list(stream)
        assert error.value.code == "job_cancelled"
    assert {job["status"] for job in jobs()} == {"cancelled"}


def test_a_schema_that_the_engine_cannot_follow_is_a_bad_request(
    sdk: OpenAI, jobs: Callable[[], Any]
) -> None:
    schema: Any = {
        "type": "json_schema",
        "json_schema": {"name": "a", "strict": True, "schema": {"type": "object"}},
    }
    for form in (schema, {"type": "json_object"}):
        with pytest.raises(openai.BadRequestError) as error:
            sdk.chat.completions.create(model="fake", messages=CHAT, response_format=form)
        assert "cannot constrain" in error.value.message
    assert [job["charge"]["charged_micros"] for job in jobs()] == [0, 0]
