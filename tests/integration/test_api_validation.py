"""What a body may say: every refusal names its field, and nothing is stored or held."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from flask.testing import FlaskClient
from pytest import Subtests

from tests.integration.conftest import PostText, Problem, Submit

Untouched = Callable[[], bool]

WRONG_TYPES: list[tuple[str, Any]] = [
    ("model", 1),
    ("prompt", ["a"]),
    ("prompt", None),
    ("max_tokens", "5"),
    ("max_tokens", True),
    ("max_tokens", 5.5),
    ("max_tokens", 5.0),
    ("temperature", "0.5"),
    ("temperature", True),
    ("temperature", None),
    ("top_p", [1]),
    ("top_k", True),
    ("top_k", "40"),
    ("seed", "1"),
    ("seed", False),
    ("stop", "\n"),
    ("stop", {"0": "a"}),
    ("min_p", "0"),
    ("stop_token_ids", 1),
    ("repetition_penalty", "1"),
    ("presence_penalty", None),
    ("frequency_penalty", True),
    ("logprobs", 1),
    ("logprobs", "true"),
    ("response_format", "json_schema"),
    ("metadata", []),
    ("metadata", "a"),
    ("webhook_url", 1),
    ("priority", "high"),
    ("deadline_seconds", True),
    ("deadline_seconds", "60"),
]

OUT_OF_RANGE: list[tuple[str, Any]] = [
    ("max_tokens", 0),
    ("max_tokens", -1),
    ("max_tokens", 2**31),
    ("max_tokens", 10**30),
    ("temperature", -0.01),
    ("temperature", 2.01),
    ("top_p", 0),
    ("top_p", 1.01),
    ("top_k", -1),
    ("top_k", 1001),
    ("seed", -1),
    ("seed", 2**63),
    ("stop", []),
    ("stop", ["a"] * 5),
    ("min_p", -0.01),
    ("min_p", 1),
    ("stop_token_ids", []),
    ("stop_token_ids", list(range(17))),
    ("presence_penalty", -2.01),
    ("frequency_penalty", 2.01),
    ("repetition_penalty", 0.09),
    ("repetition_penalty", 2.01),
    ("metadata", {str(n): "x" for n in range(17)}),
    ("metadata", {str(n): "\U0001f600" * 512 for n in range(5)}),
    ("metadata", {str(n): "\x01" * 512 for n in range(4)}),
    ("webhook_url", ""),
    ("webhook_url", "https://example.com/" + "a" * 2048),
    ("priority", -101),
    ("priority", 101),
    ("deadline_seconds", 0),
    ("deadline_seconds", 604_801),
]

IN_RANGE: list[tuple[str, Any]] = [
    ("max_tokens", 1),
    ("temperature", 0),
    ("temperature", 2),
    ("top_p", 1),
    ("top_k", 1000),
    ("seed", 0),
    ("seed", 2**63 - 1),
    ("stop", ["a" * 64] * 4),
    ("stop", None),
    ("min_p", 0),
    ("min_p", 0.999),
    ("stop_token_ids", [*range(15), 2**31 - 1]),
    ("stop_token_ids", None),
    ("presence_penalty", -2),
    ("frequency_penalty", 2),
    ("logprobs", False),
    ("response_format", None),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": {}}}),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": {"a": "b" * 31_992}}}),
    ("repetition_penalty", 0.1),
    ("repetition_penalty", 2),
    ("metadata", {str(n): "v" * 512 for n in range(16)}),
    ("metadata", {"n" * 64: ""}),
    ("priority", -100),
    ("priority", 100),
    ("deadline_seconds", 604_800),
]

FORMAT_FIELD = "response_format.json_schema"
SCHEMA_FIELD = f"{FORMAT_FIELD}.schema"


def format_with(json_schema: dict[str, Any]) -> dict[str, Any]:
    """A response_format."""
    return {"type": "json_schema", "json_schema": json_schema}


INSIDE: list[tuple[str, Any, str]] = [
    ("stop", [""], "stop.0"),
    ("stop", ["a", "b" * 65], "stop.1"),
    ("stop", [1], "stop.0"),
    ("stop_token_ids", [1, -1], "stop_token_ids.1"),
    ("stop_token_ids", [2**31], "stop_token_ids.0"),
    ("stop_token_ids", [1.0], "stop_token_ids.0"),
    ("response_format", {"type": "text"}, "response_format.type"),
    ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
    ("response_format", format_with({"name": "a"}), SCHEMA_FIELD),
    ("response_format", format_with({"schema": "{}"}), SCHEMA_FIELD),
    ("response_format", format_with({"schema": {"a": "b" * 31_993}}), SCHEMA_FIELD),
    ("response_format", format_with({"schema": {}, "name": "n" * 65}), f"{FORMAT_FIELD}.name"),
    ("response_format", format_with({"schema": {}, "schema_": {}}), f"{FORMAT_FIELD}.schema_"),
    ("metadata", {"": "x"}, "metadata..[key]"),
    ("metadata", {"n" * 65: "x"}, f"metadata.{'n' * 65}.[key]"),
    ("metadata", {"name": "v" * 513}, "metadata.name"),
    ("metadata", {"name": 1}, "metadata.name"),
    ("metadata", {"name": None}, "metadata.name"),
    ("metadata", {"name": {"a": "b"}}, "metadata.name"),
]

MESSAGES: list[tuple[Any, str]] = [
    ([], "messages"),
    ("hi", "messages"),
    ([{}], "messages.0.role"),
    ([{"role": "user", "content": None}], "messages.0.content"),
    ([{"role": "robot", "content": "hi"}], "messages.0.role"),
    ([{"role": "user", "content": "hi", "name": "x"}], "messages.0.name"),
    ([{"role": "user", "content": "hi"}] * 1001, "messages"),
    (["hi"], "messages.0"),
]

REFUSED_URLS = [
    "ftp://example.com/",
    "https://",
    "https://user:password@example.com/",
    "https://10.0.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "https://a..b/",
    "https://" + "a" * 64 + ".com/",
    "https://example.com:99999/",
    "https://exa mple.com/",
    "//example.com/",
]


def _field(members: dict[str, Any]) -> str:
    assert members["detail"].startswith(members["errors"][0]["field"])
    return str(members["errors"][0]["field"])


def test_a_value_of_a_wrong_type_is_refused_not_converted(
    submit: Submit, problem: Problem, subtests: Subtests
) -> None:
    for field, value in WRONG_TYPES:
        with subtests.test(field=field, value=value):
            assert _field(problem(submit(**{field: value}), 422, "invalid_request")) == field


def test_a_value_out_of_range_is_refused(
    submit: Submit, problem: Problem, subtests: Subtests
) -> None:
    for field, value in OUT_OF_RANGE:
        with subtests.test(field=field, value=value):
            assert _field(problem(submit(**{field: value}), 422, "invalid_request")) == field


def test_a_value_at_the_end_of_its_range_is_accepted(submit: Submit, subtests: Subtests) -> None:
    for field, value in IN_RANGE:
        with subtests.test(field=field, value=value):
            assert submit(**{field: value}).status_code == 202


def test_a_bad_value_inside_a_field_is_named_by_its_path(
    submit: Submit, problem: Problem, subtests: Subtests
) -> None:
    for field, value, named in INSIDE:
        with subtests.test(field=field, value=value):
            assert _field(problem(submit(**{field: value}), 422, "invalid_request")) == named


def test_a_number_that_is_none_is_refused(
    post_text: PostText, problem: Problem, subtests: Subtests
) -> None:
    numbers = ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"]
    fields = ["temperature", "top_p", "top_k", "max_tokens", "seed", "min_p", "presence_penalty"]
    for field, number in product(fields, numbers):
        with subtests.test(field=field, number=number):
            response = post_text(f'{{"model": "fake", "prompt": "a", "{field}": {number}}}')
            assert _field(problem(response, 422, "invalid_request")) == field


def test_a_schema_with_a_number_that_is_none_is_refused(
    post_text: PostText, problem: Problem, subtests: Subtests
) -> None:
    for number in ("NaN", "Infinity", "-Infinity"):
        with subtests.test(number=number):
            schema = f'{{"type": "json_schema", "json_schema": {{"schema": {{"a": {number}}}}}}}'
            response = post_text(f'{{"model": "fake", "prompt": "a", "response_format": {schema}}}')
            assert _field(problem(response, 422, "invalid_request")) == SCHEMA_FIELD


def test_a_number_of_a_hundred_thousand_digits_is_refused(
    post_text: PostText, problem: Problem
) -> None:
    response = post_text('{"model": "fake", "prompt": "a", "seed": ' + "9" * 100_000 + "}")
    problem(response, 400, "invalid_json")


@pytest.mark.parametrize("path", ["generate", "complete", "chat"])
def test_an_unknown_field_is_refused(
    submit: Submit, problem: Problem, untouched: Untouched, path: str
) -> None:
    members = problem(submit(path, max_token=5), 422, "invalid_request")
    assert _field(members) == "max_token"
    assert members["detail"] == "max_token: There is no such field; did you mean max_tokens?"
    assert untouched()


def test_every_wrong_field_is_named_but_no_more_than_a_reader_would_read(
    submit: Submit, problem: Problem
) -> None:
    two = problem(submit(top_k=-1, seed=-1), 422, "invalid_request")
    assert {each["field"] for each in two["errors"]} == {"top_k", "seed"}
    assert all(f"{each['field']}: {each['message']}" in two["detail"] for each in two["errors"])
    many = problem(submit(**{f"f{n}": n for n in range(50_000)}), 422, "invalid_request")
    assert len(many["errors"]) <= 100


def test_a_refusal_does_not_repeat_what_was_sent(submit: Submit, problem: Problem) -> None:
    response = submit(prompt=["my secret"], webhook_url=["my secret"])
    problem(response, 422, "invalid_request")
    assert "secret" not in response.get_data(as_text=True)


@pytest.mark.parametrize("path", ["generate", "complete"])
def test_an_empty_prompt_is_refused(submit: Submit, problem: Problem, path: str) -> None:
    assert _field(problem(submit(path, prompt=""), 422, "invalid_request")) == "prompt"


@pytest.mark.parametrize("missing", ["model", "prompt"])
def test_a_missing_field_is_named(client: FlaskClient, problem: Problem, missing: str) -> None:
    body = {"model": "fake", "prompt": "a"}
    del body[missing]
    response = client.post("/api/v1/generate", json=body)
    assert _field(problem(response, 422, "invalid_request")) == missing


def test_bad_messages_are_refused(submit: Submit, problem: Problem, subtests: Subtests) -> None:
    for messages, named in MESSAGES:
        with subtests.test(named=named):
            members = problem(submit("chat", messages=messages), 422, "invalid_request")
            assert _field(members) == named


def test_a_model_that_is_not_served_is_refused_with_those_that_are(
    submit: Submit, problem: Problem, untouched: Untouched, subtests: Subtests
) -> None:
    for model in ("unknown", "disabled", "FAKE", "fake ", "../fake", "x" * 10_000):
        with subtests.test(model=model):
            members = problem(submit(model=model), 422, "unknown_model")
            assert members["known_models"] == ["fake"]
    assert untouched()


@pytest.mark.parametrize("path", ["generate", "complete", "chat"])
def test_a_prompt_longer_than_the_context_is_refused(
    submit: Submit, problem: Problem, untouched: Untouched, path: str
) -> None:
    text = "word " * 100
    given = (
        {"messages": [{"role": "user", "content": text}]} if path == "chat" else {"prompt": text}
    )
    members = problem(submit(path, **given), 422, "context_length_exceeded")
    assert (members["prompt_tokens"], members["context_length"]) == (100, 100)
    assert untouched()


def test_a_prompt_that_leaves_too_little_room_for_the_answer_is_refused(
    submit: Submit, problem: Problem
) -> None:
    prompt = "word " * 90
    problem(submit(prompt=prompt, max_tokens=11), 422, "context_length_exceeded")
    assert submit(prompt=prompt, max_tokens=10).status_code == 202
    assert submit(prompt=prompt).get_json()["charge"]["held_micros"] == 90 + 10 * 2


def test_a_webhook_address_that_must_not_be_reached_is_refused(
    submit: Submit, problem: Problem, untouched: Untouched, subtests: Subtests
) -> None:
    for url in REFUSED_URLS:
        with subtests.test(url=url):
            problem(submit(webhook_url=url), 422, "webhook_url_refused")
    assert untouched()
