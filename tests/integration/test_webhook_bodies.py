"""The body of a webhook is small, whatever a job holds."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select

from app.db import Database
from app.webhooks.tables import Delivery
from tests.integration.conftest import Submit

LIMIT = 20_000
URL = "http://127.0.0.1:9/"
Work = Callable[[], None]


def _body(database: Database) -> str:
    with database.transaction() as session:
        return session.scalars(select(Delivery.body)).one()


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the fake engine write this word, and no other."""
    return lambda word: monkeypatch.setattr("workers.engines.fake_words.WORDS", [word])


@pytest.mark.parametrize("letter", ["a", "\N{SNOWMAN}", '"', "\x01"])
def test_a_long_output_is_left_to_a_get(
    submit: Submit,
    work: Work,
    client: FlaskClient,
    database: Database,
    write: Callable[[str], None],
    letter: str,
) -> None:
    write(letter * 10_000)
    job = submit(webhook_url=URL, max_tokens=2).get_json()
    work()
    body = _body(database)
    assert len(body.encode()) < LIMIT
    output = json.loads(body)["data"]["output"]
    assert (output["text"], output["truncated"]) == (None, True)
    read = client.get(f"/api/v1/jobs/{job['id']}").get_json()["output"]
    assert (read["text"], read["truncated"]) == (" ".join([letter * 10_000] * 2), False)


def test_an_output_that_just_fits_is_sent_and_one_byte_more_is_not(
    submit: Submit, work: Work, database: Database, write: Callable[[str], None]
) -> None:
    write("")
    empty = _length(submit, work, database)
    write("a" * (LIMIT - 1 - empty))
    assert _length(submit, work, database) == LIMIT - 1
    write("a" * (LIMIT - empty))
    assert _length(submit, work, database) < LIMIT - 1


def _length(submit: Submit, work: Work, database: Database) -> int:
    submit(webhook_url=URL, max_tokens=1)
    work()
    with database.transaction() as session:
        newest = select(Delivery.body).order_by(Delivery.id.desc()).limit(1)
        return len(session.scalars(newest).one().encode())


@pytest.mark.parametrize(
    "metadata",
    [
        {f"{n:02}": "a" * 512 for n in range(16)},
        {f"{n:02}": '"' * 300 for n in range(16)},
        {f"{n:02}": "\U0001f600" * 150 for n in range(16)},
        {f"{n:02}": "\x01" * 100 for n in range(16)},
    ],
)
def test_the_body_stays_small_with_all_the_metadata_that_is_allowed(
    submit: Submit, work: Work, database: Database, metadata: dict[str, Any]
) -> None:
    response = submit(webhook_url=URL + '"' * 2000, metadata=metadata)
    assert response.status_code == 202
    work()
    body = _body(database)
    assert len(body.encode()) < LIMIT
    assert json.loads(body)["data"]["metadata"] == metadata
