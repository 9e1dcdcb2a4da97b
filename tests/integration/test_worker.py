"""What a worker does when its engine, and not the job, is at fault."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, text

from app.config import Settings
from app.db import Database
from app.errors import EngineClosed, ModelLoadFailed
from app.fleet.tables import Worker
from app.jobs import finish
from app.jobs.rescue import rescue
from tests.integration.conftest import Open, Submit
from tests.integration.standin import FALLS, HANGS, KILLS
from workers import engines
from workers.engines.native.engine import NativeEngine
from workers.engines.native.restarts import Patience
from workers.process import Process, compose

RUN_OUT = "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE status = 'running'"


def submitted(client: FlaskClient) -> UUID:
    body = {"model": "fake", "prompt": "one two three", "max_tokens": 5}
    return UUID(client.post("/api/v1/generate", json=body).json["id"])


def test_a_lease_is_called_lost_when_its_job_was_taken_back_and_not_when_it_has_ended(
    client: FlaskClient,
    process: Process,
    database: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A beat may come between the end of a job and letting go of its lease."""
    serving = process.servings["generate.fake"]
    leases = []
    for _ in range(3):
        submitted(client)
        claimed = serving.claim_next()
        assert claimed
        leases.append(claimed.lease)
    ended, handed_back, lost = leases
    process.finish(finish.failed(ended, code="x", message="x"))
    process.hand_back(handed_back)
    with database.transaction() as session:
        session.execute(text(RUN_OUT))
        rescue(session, max_attempts=3, base_url="http://here")
    with ExitStack() as held:
        for each in leases:
            held.enter_context(serving.heartbeat.keeping(each))
        serving.heartbeat.beat()
    (called_lost,) = [each for each in caplog.records if "lease_lost" in str(each.msg)]
    assert str(lost.job_id) in str(called_lost.msg)


@pytest.fixture
def stopped() -> Iterator[list[int]]:
    """The signals that this process sent itself to stop."""
    signals: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    yield signals
    signal.signal(signal.SIGTERM, before)


def test_a_worker_whose_engine_died_for_good_hands_the_job_back_stops_itself_and_says_why(
    client: FlaskClient,
    process: Process,
    work: Callable[[], None],
    database: Database,
    stopped: list[int],
) -> None:
    job_id = submitted(client)
    process.servings["generate.fake"]._engine.close()
    assert not process.failed
    work()
    assert (stopped, process.failed) == ([signal.SIGTERM], True)
    job = client.get(f"/api/v1/jobs/{job_id}").json
    assert (job["status"], job["charge"]["state"]) == ("queued", "held")
    assert [each["outcome"] for each in job["attempts"]] == ["handed_back"]
    assert not process.wait_until_ready(process.servings["generate.fake"])
    process.stop()
    assert process.failed
    with database.transaction() as session:
        (said,) = session.scalars(select(Worker))
        assert (said.state, said.error) == ("failed", EngineClosed().message)
    assert stopped == [signal.SIGTERM]


@pytest.fixture
def equip(process: Process, open_engine: Open) -> Iterator[Open]:
    """Give the worker an engine with a process of its own."""
    serving = process.servings["generate.fake"]

    # A beat must never find an engine that is closed: the worker would end this process.
    def start(**how: Any) -> NativeEngine:
        before, engine = serving._engine, open_engine(**how)
        serving._engine = engine
        assert before is not None
        before.close()
        return engine

    yield start
    serving.close()


@pytest.fixture
def native(equip: Open) -> NativeEngine:
    """The worker's engine, with a process of its own."""
    return equip()


def test_a_job_that_kills_its_engine_is_lost_at_once_and_fails_when_it_did_so_too_often(
    client: FlaskClient, process: Process, work: Callable[[], None], native: NativeEngine
) -> None:
    body = {"model": "fake", "prompt": f"{KILLS}", "max_tokens": 5}
    job_id = client.post("/api/v1/generate", json=body).json["id"]
    for attempt in range(1, 4):
        assert process.wait_until_ready(process.servings["generate.fake"])
        work()
        job = client.get(f"/api/v1/jobs/{job_id}").json
        assert [each["outcome"] for each in job["attempts"]] == ["lost"] * attempt
        assert job["status"] == ("queued" if attempt < 3 else "failed")
    assert (job["error"]["code"], job["charge"]["state"]) == ("worker_lost", "released")
    # Two messages beside the submit's own: each loss but the last sent one.
    assert process.broker.depth("generate.fake") == 3


def test_a_job_that_kills_its_engine_fails_alone(
    client: FlaskClient, process: Process, work: Callable[[], None], equip: Open
) -> None:
    """Its neighbours are lost with it, but not until they have no attempt left."""
    equip(step_seconds=0.2)

    def submit(prompt: str) -> str:
        body = {"model": "fake", "prompt": prompt, "max_tokens": 5}
        return str(client.post("/api/v1/generate", json=body).json["id"])

    *others, killer = [submit(prompt) for prompt in ("b", "b", "b", "b", "b", KILLS)]

    def read(job_id: str) -> Any:
        return client.get(f"/api/v1/jobs/{job_id}").json

    def serve(_: int) -> None:
        while any(read(each)["status"] in {"queued", "running"} for each in (killer, *others)):
            assert process.wait_until_ready(process.servings["generate.fake"])
            work()
            time.sleep(0.05)

    with ThreadPoolExecutor(max_workers=6) as slots:
        list(slots.map(serve, range(6)))
    assert (read(killer)["status"], read(killer)["error"]["code"]) == ("failed", "worker_lost")
    assert [read(each)["status"] for each in others] == ["succeeded"] * 5
    lost = [attempt for each in others for attempt in read(each)["attempts"]]
    assert "lost" in {attempt["outcome"] for attempt in lost}


def test_a_worker_serves_again_when_its_engine_was_restarted(
    client: FlaskClient, process: Process, work: Callable[[], None], native: NativeEngine
) -> None:
    pid = native._keeper.process.pid
    os.kill(pid, signal.SIGKILL)
    while native.stats().restarts == 0:
        time.sleep(0.01)
    job_id = submitted(client)
    assert process.wait_until_ready(process.servings["generate.fake"])
    work()
    job = client.get(f"/api/v1/jobs/{job_id}").json
    assert (job["status"], job["output"]["text"]) == ("succeeded", "one t")
    assert native._keeper.process.pid != pid


def test_a_message_does_not_wait_for_an_engine_when_the_worker_is_to_stop(
    process: Process, equip: Open
) -> None:
    engine = equip(patience=Patience(first_seconds=3600))
    os.kill(engine._keeper.process.pid, signal.SIGKILL)
    while engine.ready():
        time.sleep(0.01)
    process.grace.begun = True
    assert not process.wait_until_ready(process.servings["generate.fake"])


def test_a_job_under_which_the_engine_hangs_is_lost_and_the_status_says_why(
    client: FlaskClient, process: Process, work: Callable[[], None], equip: Open
) -> None:
    equip(stall_seconds=0.4, patience=Patience(first_seconds=3600))
    body = {"model": "fake", "prompt": HANGS, "max_tokens": 5}
    job_id = client.post("/api/v1/generate", json=body).json["id"]
    work()
    job = client.get(f"/api/v1/jobs/{job_id}").json
    assert (job["status"], [each["outcome"] for each in job["attempts"]]) == ("queued", ["lost"])
    process.servings["generate.fake"].heartbeat.beat()
    model = client.get("/api/v1/status").json["models"]["fake"]
    why = "The engine's process hung for 0.4 s and was killed. It is being started again."
    assert (model["ready"], model["workers"]["loading"], model["errors"]) == (False, 1, [why])
    assert [(each["engine"], each["problem"]) for each in model["engines"]] == [("native", why)]


def test_a_worker_whose_model_does_not_load_ends_and_the_status_says_why(
    client: FlaskClient, settings: Settings, tmp_path: Path
) -> None:
    written = settings.catalog_file.read_text()
    broken = 'source = "broken"\nengine = "native"'
    settings.catalog_file.write_text(
        written.replace('source = "fake:"\nengine = "fake"', broken, 1)
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "broken" / "model.safetensors").touch()
    process = compose(settings)
    with pytest.raises(ModelLoadFailed, match="not a valid JSON"):
        process.serve(["generate.fake"], "worker-test")
    process.database.close()
    model = client.get("/api/v1/status").json["models"]["fake"]
    assert (model["workers"]["failed"], model["engines"]) == (1, [])
    assert model["errors"][0].startswith("fake, version 1: The config.json of this checkpoint")


GPU_FAILED = "The GPU failed: CUDA error: unspecified launch failure."
GPU_GONE = (
    "The GPU failed: CUDA error: no CUDA-capable device is detected. That happened again and "
    "again, so it is not started any more."
)


def status(client: FlaskClient, process: Process) -> Any:
    """What the status says of the model, by the newest report of its worker."""
    process.servings["generate.fake"].heartbeat.beat()
    return client.get("/api/v1/status").json["models"]["fake"]


@pytest.mark.parametrize("comes_back", [True, False])
def test_the_jobs_of_a_lost_gpu_go_back_and_the_status_says_why(
    client: FlaskClient,
    process: Process,
    work: Callable[[], None],
    equip: Open,
    stopped: list[int],
    tmp_path: Path,
    comes_back: bool,
) -> None:
    patience = {"patience": Patience(first_seconds=3600)} if comes_back else {}
    engine = equip(lost=str(tmp_path / "lost"), **patience)
    body = {"model": "fake", "prompt": FALLS, "max_tokens": 5}
    job_id = client.post("/api/v1/generate", json=body).json["id"]
    work()
    job = client.get(f"/api/v1/jobs/{job_id}").json
    assert (job["status"], job["charge"]["state"]) == ("queued", "held")
    assert [each["outcome"] for each in job["attempts"]] == ["lost"]
    if comes_back:
        said = status(client, process)
        assert (said["workers"]["loading"], said["workers"]["failed"]) == (1, 0)
        assert said["errors"] == [f"{GPU_FAILED} It is being started again."]
        return
    while not engine._keeper._closed:
        time.sleep(0.01)
    assert not process.servings["generate.fake"].ready()
    assert stopped == [signal.SIGTERM]
    said = status(client, process)
    assert (said["workers"]["loading"], said["workers"]["failed"]) == (0, 1)
    assert said["errors"] == [GPU_GONE]


@pytest.mark.parametrize("stopped", [False, True])
def test_a_worker_whose_process_died_says_so_while_it_loads_again(
    settings: Settings, submit: Submit, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    before = compose(settings)
    before.serve(["generate.fake"], "worker-test")
    serving = before.servings["generate.fake"]
    if stopped:
        before.stop()
    else:  # as a killed one is: it says nothing more
        serving.heartbeat._stopping.set()
        serving._engine.close()
        before.streams.close()
    load, seen = engines.load, []

    def look(*given: Any, **named: Any) -> Any:
        seen.append(submit().get_json()["waiting"]["reason"])
        return load(*given, **named)

    monkeypatch.setattr(engines, "load", look)
    again = compose(settings)
    again.serve(["generate.fake"], "worker-test")
    assert seen == ["model_loading" if stopped else "worker_restarting"]
    assert [each.error for each in again.servings["generate.fake"]._reports()] == [None]
    again.stop()
    for process in (before, again):
        process.database.close()
