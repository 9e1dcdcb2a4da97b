"""Adapters as models of their own, which the worker of their base serves."""

from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.config import Settings
from app.db import Database
from app.errors import ModelLoadFailed
from app.jobs.claim import claim
from tests.integration.conftest import Submit
from workers import sweep
from workers.generate import generate
from workers.process import Process, compose

QUEUES = ["generate.fake", "generate.terse", "generate.verse"]


@pytest.fixture
def catalog_file(adapters_file: Path) -> Path:
    """A base with two adapters."""
    return adapters_file


def status(client: FlaskClient, model: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/api/v1/status").json["models"][model]
    return found


def test_the_worker_of_the_base_does_a_job_of_an_adapter_which_pays_its_own_price(
    client: FlaskClient, submit: Submit, process: Process
) -> None:
    job = submit(model="verse", max_tokens=5).json
    assert job["waiting"] == {"reason": "in_queue", "position": 0, "eta_seconds": None}
    assert process.broker.depths(["fake", "verse", "terse"]) == {"fake": 0, "verse": 1, "terse": 0}
    generate(process, process.servings["generate.verse"])
    done = client.get(f"/api/v1/jobs/{job['id']}").json
    assert (done["status"], done["model"]) == ("succeeded", "verse")
    assert done["charge"]["charged_micros"] == (3 + 5) * 5


def test_a_worker_of_a_base_consumes_the_queues_of_its_adapters(settings: Settings) -> None:
    for asked in (["generate.fake"], ["generate.verse", "generate.fake"]):
        process = compose(settings)
        assert sorted(process.serve(asked, "worker-test")) == QUEUES
        assert len(set(process.servings.values())) == 1
        process.stop()
        process.database.close()


def test_a_worker_that_is_asked_for_an_adapter_alone_ends_and_names_its_base(
    settings: Settings,
) -> None:
    process = compose(settings)
    with pytest.raises(ModelLoadFailed) as refused:
        process.serve(["generate.verse"], "worker-test")
    assert refused.value.message == (
        "verse is an adapter of fake: the workers of fake serve it (-Q generate.fake), and no "
        "others."
    )
    process.database.close()


def test_status_and_metrics_count_the_worker_for_each_and_its_engine_once(
    client: FlaskClient, process: Process
) -> None:
    for model in ("fake", "verse", "terse"):
        found = status(client, model)
        assert (found["ready"], found["workers"]["ready"], found["errors"]) == (True, 1, [])
        assert len(found["engines"]) == (model == "fake")
    metrics = client.get("/api/v1/metrics").text
    assert 'gptqueue_workers{model="verse",state="ready"} 1.0' in metrics
    assert 'gptqueue_engine_slots{model="fake",worker="worker-test"}' in metrics
    assert 'gptqueue_engine_slots{model="verse"' not in metrics
    process.stop()
    assert not status(client, "verse")["ready"]


def test_jobs_of_a_base_and_its_adapters_are_claimed_together_by_priority_and_age(
    submit: Submit, process: Process, database: Database
) -> None:
    places = [("fake", 0), ("verse", 0), ("terse", 3), ("fake", 3), ("verse", 5), ("fake", 0)]
    jobs = [submit(model=model, priority=priority).json["id"] for model, priority in places]
    with database.transaction() as session:
        claimed = claim(
            session,
            process.servings["generate.fake"].served,
            worker="w",
            lease_seconds=60,
            limit=5,
        )
    assert [str(each.lease.job_id) for each in claimed] == [jobs[at] for at in (4, 2, 3, 0, 1)]
    assert [each.model for each in claimed] == ["verse", "terse", "fake", "fake", "verse"]
    last = process.servings["generate.fake"].claim_next()
    assert last is not None
    assert str(last.lease.job_id) == jobs[5]
    assert process.servings["generate.fake"].claim_next() is None


def test_two_workers_that_claim_at_the_same_moment_get_a_job_each(
    submit: Submit, process: Process, database: Database
) -> None:
    """Neither hides what it only looks at, nor goes without when it cannot have that one."""
    submit(model="fake", priority=1)
    submit(model="verse")
    served = process.servings["generate.fake"].served
    how = {"lease_seconds": 60, "limit": 1}
    with database.transaction() as one:
        (first,) = claim(one, served, worker="one", **how)
        with database.transaction() as other:
            (second,) = claim(other, served, worker="other", **how)
    assert (first.model, second.model) == ("fake", "verse")


def test_a_lost_message_of_an_adapter_is_sent_again(
    submit: Submit, settings: Settings, process: Process
) -> None:
    submit(model="verse")
    process.broker._redis.flushall()
    process.settings = settings.model_copy(update={"requeue_grace_seconds": 0})
    sweep.send_missing_messages(process)
    assert process.broker.depths(["fake", "verse"]) == {"fake": 0, "verse": 1}
