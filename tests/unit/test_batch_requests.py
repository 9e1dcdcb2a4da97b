"""Lines of a batch: what they ask for, and what is refused."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app import catalog
from app.batches.requests import PRIORITY, draft_of
from app.batches.tables import Batch, BatchLine
from app.billing.prices import Price
from app.config import Settings
from app.errors import ContextLengthExceeded, GPTQueueError, InvalidRequest, UnknownModel
from app.jobs.submit import Draft
from tests.conftest import CATALOG

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACCOUNT = UUID(int=7)


@pytest.fixture
def served(tmp_path: Path) -> catalog.Catalog:
    path = tmp_path / "catalog.toml"
    path.write_text(CATALOG.replace("output_price", "batch_price_percent = 33\noutput_price", 1))
    return catalog.load(path)


def drafted(served: catalog.Catalog, endpoint: str = "/v1/chat/completions", **body: Any) -> Draft:
    batch = Batch(
        id=UUID(int=1),
        account_id=ACCOUNT,
        endpoint=endpoint,
        expires_at=NOW + timedelta(hours=24),
    )
    said: dict[str, Any] = {"model": "fake", **body}
    if endpoint == "/v1/chat/completions":
        said.setdefault("messages", [{"role": "user", "content": "a b c"}])
    line = {"custom_id": "x", "method": "POST", "url": endpoint, "body": said}
    return draft_of(
        batch,
        BatchLine(number=3),
        b"\xef\xbb\xbf" + json.dumps(line).encode(),
        now=NOW + timedelta(hours=23, seconds=5),
        catalog=served,
        settings=Settings(),
    )


def test_a_line_is_a_job_of_low_priority_at_the_batch_price(served: catalog.Catalog) -> None:
    draft = drafted(served, max_tokens=9, seed=4, user="ada")
    assert (draft.account_id, draft.kind, draft.model) == (ACCOUNT, "chat", "fake")
    assert (draft.priority, draft.deadline_seconds) == (PRIORITY, 3595)
    assert draft.price == Price(330_000, 660_000)
    assert draft.hold.amount_micros == Price(330_000, 660_000).of(draft.at_most)
    assert draft.request_id == f"batch_{UUID(int=1).hex}:3"
    assert draft.metadata == {"user": "ada"}
    text = drafted(served, "/v1/completions", prompt="a b")
    assert (text.kind, text.prompt, text.messages) == ("complete", "a b", None)


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        ({"stream": True}, InvalidRequest, "stream"),
        ({"n": 2}, InvalidRequest, "n"),
        ({"priority": 5}, InvalidRequest, "priority"),
        ({"deadline_seconds": 5}, InvalidRequest, "deadline_seconds"),
        ({"webhook_url": "http://x"}, InvalidRequest, "webhook_url"),
        ({"temperature": 3}, InvalidRequest, "temperature"),
        ({"messages": []}, InvalidRequest, "messages"),
        ({"tempreature": 1}, InvalidRequest, "tempreature"),
        ({"max_tokens": 98}, ContextLengthExceeded, None),
        ({"model": "gone"}, UnknownModel, None),
    ],
    ids=str,
)
def test_a_line_is_refused_as_a_call_would_be(
    served: catalog.Catalog, body: dict[str, Any], error: type[GPTQueueError], param: str | None
) -> None:
    with pytest.raises(error) as refused:
        drafted(served, **body)
    if param is not None:
        wrong: Any = refused.value.details["errors"]
        assert wrong[0]["field"] == param
