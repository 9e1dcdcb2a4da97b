"""What operators and their tools ask: models, health, status, metrics, request ids."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from pytest import Subtests
from sqlalchemy import text

from app.api import create_app
from app.config import Settings
from app.db import Database
from app.errors import ModelLoadFailed
from tests.conftest import CATALOG, Customer
from tests.integration.conftest import Problem, Submit
from workers.process import Process, compose

Metrics = dict[tuple[str, tuple[tuple[str, str], ...]], float]
ApiWith = Callable[..., FlaskClient]


@pytest.fixture
def api_with(settings: Settings) -> Iterator[ApiWith]:
    """A client without a key, of an API composed with other settings."""
    made: list[Flask] = []

    def make(**changes: Any) -> FlaskClient:
        made.append(create_app(settings.model_copy(update=changes)))
        return made[-1].test_client()

    yield make
    for app in made:
        app.extensions["gptqueue"].database.close()


def _read(text: str) -> Metrics:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_models_are_listed_with_their_prices_and_without_the_disabled(
    client: FlaskClient,
) -> None:
    assert client.get("/api/v1/models").get_json() == {
        "data": [
            {
                "name": "fake",
                "description": "",
                "version": "1",
                "context_length": 100,
                "default_max_tokens": 20,
                "input_micros_per_million_tokens": 1_000_000,
                "output_micros_per_million_tokens": 2_000_000,
            }
        ]
    }


def test_an_account_reads_its_own_webhook_secret(
    api: Flask, client: FlaskClient, customer: Customer, new_customer: Callable[[], Customer]
) -> None:
    path = "/api/v1/webhooks/default/secret"
    assert client.get(path).get_json() == {"key": customer.secret}
    other = new_customer()
    assert api.test_client().get(path, headers=other.headers).get_json() == {"key": other.secret}
    assert other.secret != customer.secret


def test_health_asks_nobody(api_with: ApiWith, closed_port: int) -> None:
    nowhere = f"127.0.0.1:{closed_port}"
    client = api_with(database_url=f"postgresql://{nowhere}/x", redis_url=f"redis://{nowhere}/0")
    response = client.get("/api/v1/health")
    assert (response.status_code, response.get_json()) == (200, {"status": "alive"})


def test_status_tells_queue_and_workers_of_each_model(
    api_with: ApiWith, submit: Submit, process: Process
) -> None:
    for _ in range(3):
        submit()
    response = api_with().get("/api/v1/status")
    assert response.status_code == 200
    assert response.get_json() == {
        "ready": True,
        "database": {"ok": True},
        "broker": {"ok": True},
        "models": {
            "fake": {
                "ready": True,
                "queue_depth": 3,
                "workers": {"loading": 0, "ready": 1, "failed": 0},
                "errors": [],
                "engines": [
                    {
                        "worker": "worker-test",
                        "engine": "fake",
                        "restarts": 0,
                        "kv_used_tokens": 0,
                        "kv_capacity_tokens": 0,
                        "problem": None,
                    }
                ],
            }
        },
    }


def _model(client: FlaskClient) -> Any:
    return client.get("/api/v1/status").get_json()["models"]["fake"]


def test_a_model_without_a_live_worker_is_not_ready(
    api_with: ApiWith, process: Process, database: Database
) -> None:
    client = api_with()
    assert _model(client)["ready"]
    with database.transaction() as session:
        session.execute(text("UPDATE workers SET seen_at = now() - interval '1 hour'"))
    model = _model(client)
    assert (model["ready"], model["workers"]["ready"]) == (False, 0)
    process.servings["generate.fake"].heartbeat.beat()
    assert _model(client)["ready"]


def test_a_model_that_cannot_load_says_why_and_so_does_a_job_that_waits_for_it(
    api_with: ApiWith, settings: Settings, submit: Submit
) -> None:
    settings.catalog_file.write_text(CATALOG.replace("fake:", "fake:fail_at_load=1"))
    failing = compose(settings)
    with pytest.raises(ModelLoadFailed):
        failing.serve(["generate.fake"], "worker-failing")
    failing.database.close()
    model = _model(api_with())
    assert (model["ready"], model["workers"]) == (False, {"loading": 0, "ready": 0, "failed": 1})
    assert model["errors"] == ["fake, version 1: The fake engine was told to fail at load."]
    assert submit().get_json()["waiting"]["reason"] == "model_failed"


def test_status_without_a_broker_is_ready_and_knows_no_depth(
    api_with: ApiWith, closed_port: int
) -> None:
    response = api_with(redis_url=f"redis://127.0.0.1:{closed_port}/0").get("/api/v1/status")
    status = response.get_json()
    assert (response.status_code, status["ready"]) == (200, True)
    assert (status["database"]["ok"], status["broker"]["ok"]) == (True, False)
    assert status["models"]["fake"]["queue_depth"] is None


def test_status_without_a_database_is_503_and_says_so(api_with: ApiWith, closed_port: int) -> None:
    response = api_with(database_url=f"postgresql://127.0.0.1:{closed_port}/x").get(
        "/api/v1/status"
    )
    status = response.get_json()
    assert (response.status_code, status["ready"]) == (503, False)
    assert (status["database"]["ok"], status["broker"]["ok"]) == (False, True)


def test_metrics_count_jobs_tokens_money_queues_and_workers(
    client: FlaskClient, submit: Submit, work: Callable[[], None]
) -> None:
    submit(max_tokens=5)
    submit(webhook_url="http://127.0.0.1:9/", max_tokens=5)
    submit()
    for _ in range(2):
        work()
    response = client.get("/api/v1/metrics")
    assert response.content_type.startswith("text/plain; version=")
    metrics = _read(response.get_data(as_text=True))
    fake = ("model", "fake")
    assert metrics["gptqueue_database_up", ()] == 1
    assert metrics["gptqueue_broker_up", ()] == 1
    assert metrics["gptqueue_jobs", (fake, ("status", "succeeded"))] == 2
    assert metrics["gptqueue_jobs", (fake, ("status", "queued"))] == 1
    assert metrics["gptqueue_tokens_total", (("direction", "prompt"), fake)] == 6
    assert metrics["gptqueue_tokens_total", (("direction", "completion"), fake)] == 10
    assert metrics["gptqueue_charged_micros_total", (fake,)] == 26
    assert metrics["gptqueue_webhook_deliveries", (("state", "pending"),)] == 1
    assert metrics["gptqueue_queue_messages", (fake,)] == 3
    assert metrics["gptqueue_workers", (fake, ("state", "ready"))] == 1


def test_metrics_say_what_is_down(api_with: ApiWith, closed_port: int) -> None:
    nowhere = f"127.0.0.1:{closed_port}"
    client = api_with(database_url=f"postgresql://{nowhere}/x", redis_url=f"redis://{nowhere}/0")
    response = client.get("/api/v1/metrics")
    assert response.status_code == 200
    assert _read(response.get_data(as_text=True)) == {
        ("gptqueue_database_up", ()): 0,
        ("gptqueue_broker_up", ()): 0,
    }


def test_metrics_can_be_kept_behind_a_token(api_with: ApiWith, problem: Problem) -> None:
    client = api_with(metrics_token="t\u00f6ken")
    right = {"Authorization": "Bearer t\u00f6ken"}
    assert client.get("/api/v1/metrics", headers=right).status_code == 200
    for wrong in ({}, {"Authorization": "Bearer token"}, {"Authorization": "t\u00f6ken"}):
        problem(client.get("/api/v1/metrics", headers=wrong), 401, "invalid_credential")


def test_a_sane_request_id_is_kept(client: FlaskClient) -> None:
    for sane in ("abc", str(uuid4()), "a" * 128, "A.b_c:d-9"):
        response = client.get("/api/v1/models", headers={"X-Request-ID": sane})
        assert response.headers["X-Request-ID"] == sane


def test_any_other_request_id_is_replaced(client: FlaskClient, subtests: Subtests) -> None:
    for bad in ("", " ", "a b", "a" * 129, "{}", '"', "\xe9", "a/b", "a\t"):
        with subtests.test(bad=bad):
            response = client.get("/api/v1/models", headers={"X-Request-ID": bad})
            assert response.headers["X-Request-ID"] != bad
            assert len(response.headers["X-Request-ID"]) == 32


def test_every_request_without_an_id_gets_its_own(client: FlaskClient) -> None:
    ids = {client.get("/api/v1/health").headers["X-Request-ID"] for _ in range(5)}
    assert len(ids) == 5


def test_a_request_id_stands_in_errors_too(client: FlaskClient, problem: Problem) -> None:
    response = client.get("/nowhere", headers={"X-Request-ID": "mine"})
    assert problem(response, 404, "route_not_found")["request_id"] == "mine"
