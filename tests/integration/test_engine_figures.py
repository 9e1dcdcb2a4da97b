"""What an engine says of itself, on its way from the worker to status and metrics."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from app.db import Database
from tests.integration.conftest import Submit
from workers.engines.base import Stats
from workers.process import Process

STATS = Stats(
    running=3,
    waiting=2,
    steps=100,
    generated_tokens=250,
    prefill_tokens=70,
    preemptions=4,
    kv_used=512,
    kv_total=4096,
    step_seconds=1.5,
    queue_seconds=0.25,
    started=9,
    restarts=1,
)
GPU = {
    "name": "0",
    "up": 1,
    "utilization": 0.5,
    "memory_used": 10,
    "memory_total": 80,
    "temperature": 41,
}
EXPECTED = {
    "gptqueue_engine_info": 1,
    "gptqueue_engine_running": 3,
    "gptqueue_engine_slots": 16,
    "gptqueue_engine_waiting": 2,
    "gptqueue_engine_kv_used_tokens": 512,
    "gptqueue_engine_kv_capacity_tokens": 4096,
    "gptqueue_engine_prefill_tokens_total": 70,
    "gptqueue_engine_generated_tokens_total": 250,
    "gptqueue_engine_preemptions_total": 4,
    "gptqueue_engine_restarts_total": 1,
    "gptqueue_engine_step_seconds_count": 100,
    "gptqueue_engine_step_seconds_sum": 1.5,
    "gptqueue_engine_queue_seconds_count": 9,
    "gptqueue_engine_queue_seconds_sum": 0.25,
}
EXPECTED_OF_GPU = {
    "gptqueue_gpu_up": 1,
    "gptqueue_gpu_utilization_ratio": 0.5,
    "gptqueue_gpu_memory_used_bytes": 10,
    "gptqueue_gpu_memory_capacity_bytes": 80,
    "gptqueue_gpu_temperature_celsius": 41,
}
LABELS = ("model", "worker", "gpu")
Say = Callable[..., None]


@pytest.fixture
def say(process: Process, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Let the worker's engine say this, and the worker report it."""
    serving = process.servings["generate.fake"]

    def report(stats: Stats, gpus: list[dict[str, Any]] | None = None) -> None:
        monkeypatch.setattr(serving._engine, "stats", lambda: stats)
        monkeypatch.setattr(serving._gpus, "figures", lambda: gpus or [])
        serving.heartbeat.beat()

    return report


def _figures(client: FlaskClient, begin: str) -> dict[tuple[str, tuple[str, ...]], float]:
    read = client.get("/api/v1/metrics").get_data(as_text=True)
    return {
        (sample.name, tuple(sample.labels[name] for name in LABELS if name in sample.labels)): (
            sample.value
        )
        for family in text_string_to_metric_families(read)
        for sample in family.samples
        if sample.name.startswith(begin)
    }


def _model(client: FlaskClient) -> Any:
    return client.get("/api/v1/status").get_json()["models"]["fake"]


def test_every_figure_of_an_engine_is_a_metric_of_its_worker(client: FlaskClient, say: Say) -> None:
    say(STATS)
    labels = ("fake", "worker-test")
    assert _figures(client, "gptqueue_engine_") == {
        (name, labels): value for name, value in EXPECTED.items()
    }
    assert _figures(client, "gptqueue_gpu_") == {}


def test_every_figure_of_a_gpu_that_is_known_is_a_metric(client: FlaskClient, say: Say) -> None:
    say(STATS, [GPU, {"name": "1", "temperature": 30}])
    labels = ("fake", "worker-test")
    assert _figures(client, "gptqueue_gpu_") == {
        **{(name, (*labels, "0")): value for name, value in EXPECTED_OF_GPU.items()},
        ("gptqueue_gpu_temperature_celsius", (*labels, "1")): 30,
    }


def test_the_metrics_say_which_engine_runs(client: FlaskClient, say: Say) -> None:
    say(STATS)
    line = 'gptqueue_engine_info{engine="fake",model="fake",worker="worker-test"} 1.0'
    assert line in client.get("/api/v1/metrics").get_data(as_text=True).splitlines()


def test_the_status_sums_an_engine_up(client: FlaskClient, say: Say) -> None:
    say(STATS)
    assert _model(client)["engines"] == [
        {
            "worker": "worker-test",
            "engine": "fake",
            "restarts": 1,
            "kv_used_tokens": 512,
            "kv_capacity_tokens": 4096,
            "problem": None,
        }
    ]


def test_an_engine_that_cannot_work_makes_its_worker_one_that_loads_and_says_why(
    client: FlaskClient, say: Say, submit: Submit
) -> None:
    problem = "The engine's process was killed (signal 9)."
    say(Stats(running=0, waiting=0, steps=0, generated_tokens=0, restarts=2, problem=problem))
    model = _model(client)
    assert (model["ready"], model["workers"]) == (False, {"loading": 1, "ready": 0, "failed": 0})
    assert model["errors"] == [problem]
    assert [(each["restarts"], each["problem"]) for each in model["engines"]] == [(2, problem)]
    assert submit().get_json()["waiting"]["reason"] == "worker_restarting"

    say(STATS)
    model = _model(client)
    assert (model["ready"], model["errors"]) == (True, [])


def test_a_worker_that_is_gone_or_of_an_older_version_has_no_figures(
    client: FlaskClient, say: Say, database: Database
) -> None:
    say(STATS)
    for change in ("seen_at = now() - interval '1 hour'", "seen_at = now(), engine = NULL"):
        with database.transaction() as session:
            session.execute(text(f"UPDATE workers SET {change}"))
        assert _figures(client, "gptqueue_engine_") == {}
        assert _model(client)["engines"] == []


def test_a_figure_that_a_worker_of_another_version_does_not_know_is_zero(
    client: FlaskClient, say: Say, database: Database
) -> None:
    say(STATS)
    with database.transaction() as session:
        session.execute(text("""UPDATE workers SET engine = '{"running": 5, "unknown": 1}'"""))
    figures = _figures(client, "gptqueue_engine_")
    assert figures["gptqueue_engine_running", ("fake", "worker-test")] == 5
    assert figures["gptqueue_engine_kv_used_tokens", ("fake", "worker-test")] == 0
    known = EXPECTED.keys() - {"gptqueue_engine_info"}
    assert figures.keys() == {(name, ("fake", "worker-test")) for name in known}
    assert _model(client)["engines"][0]["engine"] is None
