"""What a body may say: every refusal names its field, and nothing is stored or held."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.integration.conftest import Problem, Submit

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
    ("repetition_penalty", "1"),
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
    ("max_tokens", 131_073),
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
    ("repetition_penalty", 0.09),
    ("repetition_penalty", 2.01),
    ("metadata", {str(n): "x" for n in range(17)}),
    ("webhook_url", ""),
    ("webhook_url", "https://example.com/" + "a" * 2048),
    ("priority", -101),
    ("priority", 101),
    ("deadline_seconds", 0),
    ("deadline_seconds", 604_801),
]

TEXTS: list[tuple[str, Any, str]] = [
    ("prompt", "a{}b", "prompt"),
    ("model", "fake{}", "model"),
    ("stop", ["{}"], "stop.0"),
    ("metadata", {"name": "{}"}, "metadata.name"),
    ("webhook_url", "https://example.com/{}", "webhook_url"),
]


def _field(members: dict[str, Any]) -> str:
    assert members["detail"].startswith(members["errors"][0]["field"])
    return str(members["errors"][0]["field"])


@pytest.mark.parametrize(("field", "value"), WRONG_TYPES)
def test_a_value_of_a_wrong_type_is_refused_not_converted(
    submit: Submit, problem: Problem, field: str, value: Any
) -> None:
    assert _field(problem(submit(**{field: value}), 422, "invalid_request")) == field


@pytest.mark.parametrize(("field", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused(
    submit: Submit, problem: Problem, field: str, value: Any
) -> None:
    assert _field(problem(submit(**{field: value}), 422, "invalid_request")) == field


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("stop", [""], "stop.0"),
        ("stop", ["a", "b" * 65], "stop.1"),
        ("stop", [1], "stop.0"),
        ("metadata", {"": "x"}, "metadata..[key]"),
        ("metadata", {"n" * 65: "x"}, f"metadata.{'n' * 65}.[key]"),
        ("metadata", {"name": "v" * 513}, "metadata.name"),
        ("metadata", {"name": 1}, "metadata.name"),
        ("metadata", {"name": None}, "metadata.name"),
        ("metadata", {"name": {"a": "b"}}, "metadata.name"),
    ],
)
def test_a_bad_value_inside_a_field_is_named_by_its_path(
    submit: Submit, problem: Problem, field: str, value: Any, named: str
) -> None:
    assert _field(problem(submit(**{field: value}), 422, "invalid_request")) == named


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
@pytest.mark.parametrize("field", ["temperature", "top_p", "top_k", "max_tokens", "seed"])
def test_a_number_that_is_none_is_refused(
    client: FlaskClient, problem: Problem, field: str, number: str
) -> None:
    body = f'{{"model": "fake", "prompt": "a", "{field}": {number}}}'
    response = client.post("/api/v1/generate", data=body, content_type="application/json")
    assert _field(problem(response, 422, "invalid_request")) == field


def test_a_number_of_a_hundred_thousand_digits_is_refused(
    client: FlaskClient, problem: Problem
) -> None:
    body = '{"model": "fake", "prompt": "a", "seed": ' + "9" * 100_000 + "}"
    response = client.post("/api/v1/generate", data=body, content_type="application/json")
    assert _field(problem(response, 422, "invalid_request")) == "seed"


@pytest.mark.parametrize("path", ["generate", "complete", "chat"])
def test_an_unknown_field_is_refused(
    submit: Submit, problem: Problem, untouched: Untouched, path: str
) -> None:
    members = problem(submit(path, max_token=5), 422, "invalid_request")
    assert _field(members) == "max_token"
    assert untouched()


def test_every_wrong_field_is_named_but_no_more_than_a_reader_would_read(
    submit: Submit, problem: Problem
) -> None:
    two = problem(submit(top_k=-1, seed=-1), 422, "invalid_request")
    assert {each["field"] for each in two["errors"]} == {"top_k", "seed"}
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


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([], "messages"),
        ("hi", "messages"),
        ([{}], "messages.0.role"),
        ([{"role": "user", "content": ""}], "messages.0.content"),
        ([{"role": "user", "content": None}], "messages.0.content"),
        ([{"role": "robot", "content": "hi"}], "messages.0.role"),
        ([{"role": "user", "content": "hi", "name": "x"}], "messages.0.name"),
        ([{"role": "user", "content": "hi"}] * 1001, "messages"),
        (["hi"], "messages.0"),
    ],
)
def test_bad_messages_are_refused(
    submit: Submit, problem: Problem, messages: Any, named: str
) -> None:
    members = problem(submit("chat", messages=messages), 422, "invalid_request")
    assert _field(members) == named


@pytest.mark.parametrize(("field", "shape", "named"), TEXTS)
def test_text_with_nul_is_refused(
    submit: Submit, problem: Problem, untouched: Untouched, field: str, shape: Any, named: str
) -> None:
    value = json.loads(json.dumps(shape).replace("{}", "\\u0000"))
    assert _field(problem(submit(**{field: value}), 422, "invalid_request")) == named
    assert untouched()


@pytest.mark.parametrize("surrogate", ["\\ud800", "\\udc00", "\\udc00\\ud800", "\\ud800x"])
@pytest.mark.parametrize(("field", "shape", "named"), TEXTS)
def test_text_with_a_lone_surrogate_is_refused(
    client: FlaskClient, problem: Problem, field: str, shape: Any, named: str, surrogate: str
) -> None:
    body = json.dumps({"model": "fake", "prompt": "a", field: shape}).replace("{}", surrogate)
    response = client.post("/api/v1/generate", data=body, content_type="application/json")
    problem(response, 400, "invalid_json")


def test_nul_and_lone_surrogates_in_a_message_or_a_label_name_are_refused(
    client: FlaskClient, submit: Submit, problem: Problem
) -> None:
    nul = submit("chat", messages=[{"role": "user", "content": "\x00"}])
    assert _field(problem(nul, 422, "invalid_request")) == "messages.0.content"
    problem(submit(metadata={"\x00": "x"}), 422, "invalid_request")
    body = '{"model": "fake", "messages": [{"role": "user", "content": "\\ud800"}]}'
    lone = client.post("/api/v1/chat", data=body, content_type="application/json")
    problem(lone, 400, "invalid_json")


def test_text_outside_the_basic_plane_is_accepted(client: FlaskClient) -> None:
    body = '{"model": "fake", "prompt": "\\ud83d\\ude00", "metadata": {"\N{SNOWMAN}": "\\u0001"}}'
    response = client.post("/api/v1/generate", data=body, content_type="application/json")
    assert response.status_code == 202
    assert response.get_json()["metadata"] == {"\N{SNOWMAN}": "\x01"}


@pytest.mark.parametrize("model", ["unknown", "disabled", "FAKE", "fake ", "../fake", "x" * 10_000])
def test_a_model_that_is_not_served_is_refused_with_those_that_are(
    submit: Submit, problem: Problem, untouched: Untouched, model: str
) -> None:
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


@pytest.mark.parametrize(
    "url",
    [
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
    ],
)
def test_a_webhook_address_that_must_not_be_reached_is_refused(
    submit: Submit, problem: Problem, untouched: Untouched, url: str
) -> None:
    problem(submit(webhook_url=url), 422, "webhook_url_refused")
    assert untouched()
