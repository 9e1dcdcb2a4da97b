"""What cannot be stored or is no text at all is refused in every field that holds text."""

import json
from itertools import product
from typing import Any

from pytest import Subtests

from tests.integration.conftest import PostText, Problem, Submit

TEXTS: list[tuple[str, Any, str]] = [
    ("prompt", "a{}b", "prompt"),
    ("model", "fake{}", "model"),
    ("stop", ["{}"], "stop.0"),
    ("metadata", {"name": "{}"}, "metadata.name"),
    ("webhook_url", "https://example.com/{}", "webhook_url"),
]


def test_text_with_nul_is_refused(submit: Submit, problem: Problem, subtests: Subtests) -> None:
    for field, shape, named in TEXTS:
        with subtests.test(field=field):
            value = json.loads(json.dumps(shape).replace("{}", "\\u0000"))
            assert (
                problem(submit(**{field: value}), 422, "invalid_request")["errors"][0]["field"]
                == named
            )


def test_text_with_a_lone_surrogate_is_refused(
    post_text: PostText, problem: Problem, subtests: Subtests
) -> None:
    surrogates = ["\\ud800", "\\udc00", "\\udc00\\ud800", "\\ud800x"]
    for (field, shape, _), surrogate in product(TEXTS, surrogates):
        with subtests.test(field=field, surrogate=surrogate):
            body = json.dumps({"model": "fake", "prompt": "a", field: shape})
            problem(post_text(body.replace("{}", surrogate)), 400, "invalid_json")


def test_nul_in_a_message_or_a_label_name_is_refused(submit: Submit, problem: Problem) -> None:
    nul = submit("chat", messages=[{"role": "user", "content": "\x00"}])
    assert problem(nul, 422, "invalid_request")["errors"][0]["field"] == "messages.0.content"
    problem(submit(metadata={"\x00": "x"}), 422, "invalid_request")


def test_a_lone_surrogate_in_a_message_is_refused(post_text: PostText, problem: Problem) -> None:
    body = '{"model": "fake", "messages": [{"role": "user", "content": "\\ud800"}]}'
    problem(post_text(body, "chat"), 400, "invalid_json")


def test_text_outside_the_basic_plane_is_accepted(post_text: PostText) -> None:
    body = '{"model": "fake", "prompt": "\\ud83d\\ude00", "metadata": {"\N{SNOWMAN}": "\\u0001"}}'
    response = post_text(body)
    assert response.status_code == 202
    assert response.get_json()["metadata"] == {"\N{SNOWMAN}": "\x01"}
