"""Log-probabilities: asked for, stored with the result, and shown where there is room for them."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, text

from app.db import Database
from app.webhooks.tables import Delivery
from tests.integration.conftest import Submit
from workers.engines.base import FinishReason, Generation, TokenLogprob
from workers.process import Process

Work = Callable[[], None]


@pytest.fixture
def output(submit: Submit, work: Work, client: FlaskClient) -> Callable[..., Any]:
    """Submit a job, do it, and read its output."""

    def run(**fields: Any) -> Any:
        job_id = submit(**fields).get_json()["id"]
        work()
        return client.get(f"/api/v1/jobs/{job_id}").get_json()["output"]

    return run


def test_each_token_comes_with_its_logprob_and_the_five_likeliest(
    output: Callable[..., Any],
) -> None:
    written = output(logprobs=True, max_tokens=6)
    assert "".join(each["token"] for each in written["logprobs"]) == written["text"]
    assert len(written["logprobs"]) == 6
    for each in written["logprobs"]:
        assert each["logprob"] == pytest.approx(-math.log(17), abs=1e-6)
        assert len(each["top"]) == 5
        assert {name for one in each["top"] for name in one} == {"token", "logprob"}


def test_who_does_not_ask_gets_none(output: Callable[..., Any], database: Database) -> None:
    assert output(max_tokens=2)["logprobs"] is None
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM outputs WHERE logprobs IS NULL")) == 1


def test_a_list_and_a_webhook_leave_them_to_a_read_of_the_job(
    output: Callable[..., Any], client: FlaskClient, database: Database
) -> None:
    written = output(logprobs=True, webhook_url="http://127.0.0.1:9/")
    assert written["logprobs"]
    (entry,) = client.get("/api/v1/jobs").get_json()["data"]
    assert entry["output"] == {**written, "logprobs": None}
    with database.transaction() as session:
        body = session.scalars(select(Delivery.body)).one()
    assert json.loads(body)["data"]["output"] == {**written, "logprobs": None}


def test_numbers_that_json_has_not_and_nul_are_replaced(
    output: Callable[..., Any], process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = (
        TokenLogprob("a\x00", -math.inf, (("b", math.nan), ("c", math.inf))),
        TokenLogprob("d", -0.12345678, ()),
    )
    written = Generation("ad", FinishReason.STOP, 3, 2, logprobs=tokens)
    monkeypatch.setattr(process.servings["generate.fake"], "run", lambda _: written)
    assert output()["logprobs"] == [
        {
            "token": "a\ufffd",
            "logprob": -9999.0,
            "top": [{"token": "b", "logprob": -9999.0}, {"token": "c", "logprob": -9999.0}],
        },
        {"token": "d", "logprob": -0.123457, "top": []},
    ]
