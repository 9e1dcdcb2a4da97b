"""Finding the server and the model in it, and saying what is wrong."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app import catalog, tokens
from app.config import Settings
from app.errors import ModelLoadFailed
from scripts.stack import ports
from tests.openai_server import PIECES, serving
from workers import engines
from workers.engines.base import Delta, Publisher, Request, nowhere

VLLM = {"id": "the-model", "max_model_len": 64}
LLAMA = {"id": "the-model", "meta": {"n_ctx": 64}}


def load(
    source: str, served_name: str | None = None, key: str = "", publish: Publisher = nowhere
) -> engines.Engine:
    version = catalog.Version(source=source, engine="openai", served_name=served_name)
    model = catalog.Model(
        context_length=100,
        input_price_micros=1,
        output_price_micros=1,
        version="1",
        versions={"1": version},
    )
    settings = Settings(openai_api_key=key)
    return engines.load("remote", model, version="1", settings=settings, publish=publish)


def test_the_only_model_of_a_server_needs_no_name() -> None:
    with serving() as server:
        engine = load(server.url)
        answer = engine.submit(Request(id="1", prompt="Count", max_tokens=20)).result(timeout=30)
        engine.close()
    assert answer.text == "".join(PIECES)
    assert server.bodies[0]["model"] == "the-model"


def test_one_of_several_models_is_chosen_by_name() -> None:
    with serving(models=[{"id": "a"}, {"id": "b"}]) as server:
        engine = load(server.url + "/", "b")
        engine.submit(Request(id="1", prompt="Count", max_tokens=2)).result(timeout=30)
        engine.close()
    assert server.bodies[0]["model"] == "b"


def test_the_text_of_a_stream_reaches_whoever_reads_along() -> None:
    told: list[Delta] = []
    with serving() as server:
        engine = load(server.url, publish=told.extend)
        stream = Request(id="1", prompt="Count", max_tokens=20, stream=True)
        engine.submit(stream).result(timeout=30)
        engine.close()
    assert "".join(delta.text for delta in told) == "".join(PIECES)


def test_the_key_is_sent() -> None:
    with serving(key="open sesame") as server:
        load(server.url, key="open sesame").close()
        with pytest.raises(ModelLoadFailed, match="GPTQUEUE_OPENAI_API_KEY"):
            load(server.url, key="open barley")


@pytest.mark.parametrize(
    ("behaviour", "served_name", "reason"),
    [
        ({"models": [{"id": "a"}, {"id": "b"}]}, None, "Set served_name to one of .*: a, b"),
        ({"models": []}, None, "models: none"),
        ({}, "other", "no model 'other'; its models: the-model"),
        ({"models": [VLLM]}, None, "promises 100 tokens of context; the server has 64"),
        ({"models": [LLAMA]}, None, "promises 100 tokens of context; the server has 64"),
        ({"models": ["a"]}, None, "does not list its models"),
    ],
)
def test_a_server_that_does_not_fit_the_catalog_says_why(
    behaviour: dict[str, Any], served_name: str | None, reason: str
) -> None:
    with serving(**behaviour) as server, pytest.raises(ModelLoadFailed, match=reason):
        load(server.url, served_name)


def test_a_server_that_is_away_is_told() -> None:
    with pytest.raises(ModelLoadFailed, match=r"remote, version 1: http://.* cannot be reached"):
        load(f"http://127.0.0.1:{ports.find_free()}/v1")


@pytest.mark.parametrize("source", ["some/hub-id", "ftp://host/v1", "http://", "http://host:x/v1"])
def test_a_source_that_is_no_url_is_told(source: str) -> None:
    with pytest.raises(ModelLoadFailed, match="no http or https URL"):
        load(source)


def test_only_a_server_has_a_served_name() -> None:
    with pytest.raises(ValidationError, match='served_name is for the engine "openai"'):
        catalog.Version(source="folder", served_name="a")


def test_prompts_are_counted_exactly_where_a_folder_has_the_served_name(tmp_path: Path) -> None:
    version = catalog.Version(source="http://host/v1", engine="openai", served_name="org/name")
    assert not tokens.count(version, tmp_path, prompt="hello", messages=None).exact
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(TOKENIZER)
    assert tokens.count(version, tmp_path, prompt="a b a", messages=None) == tokens.Count(3, True)


TOKENIZER = """{
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
}"""
