"""What the tests of batches share."""

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from openai import OpenAI
from openai.types import Batch

ENDED = {"completed", "failed", "expired", "cancelled"}


def line(name: str, url: str = "/v1/chat/completions", **fields: Any) -> dict[str, Any]:
    """A request of a chat; what the test names is added or replaced."""
    body: dict[str, Any] = {"model": "fake", "max_tokens": 5, "seed": 1}
    if url == "/v1/chat/completions":
        body["messages"] = [{"role": "user", "content": "one two three"}]
    else:
        body["prompt"] = "one two three"
    return {"custom_id": name, "method": "POST", "url": url, "body": {**body, **fields}}


def as_file(lines: Iterable[Any]) -> bytes:
    """As JSON lines."""
    texts = (each if isinstance(each, str) else json.dumps(each) for each in lines)
    return "".join(f"{each}\n" for each in texts).encode()


def uploaded(sdk: OpenAI, lines: Iterable[Any]) -> str:
    """The id of a new input file."""
    return sdk.files.create(file=("input.jsonl", as_file(lines)), purpose="batch").id


def created(
    sdk: OpenAI, lines: Iterable[Any], endpoint: Any = "/v1/chat/completions", **more: Any
) -> Batch:
    """A batch of these lines."""
    return sdk.batches.create(
        input_file_id=uploaded(sdk, lines), endpoint=endpoint, completion_window="24h", **more
    )


def ended(sdk: OpenAI, batch: Batch, seconds: float = 60) -> Batch:
    """The batch when it has ended."""
    give_up = time.monotonic() + seconds
    while (found := sdk.batches.retrieve(batch.id)).status not in ENDED:
        assert time.monotonic() < give_up, found
        time.sleep(0.05)
    return found


def read(sdk: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output or error file; none of a file that is not there."""
    if file_id is None:
        return []
    return [json.loads(each) for each in sdk.files.content(file_id).text.splitlines()]


def names(lines: Sequence[dict[str, Any]]) -> list[str]:
    """The custom ids."""
    return [each["custom_id"] for each in lines]
