"""Flower on the real queues: behind its login it knows the workers and their tasks."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import psutil
import pytest
import requests

from app.queues import GENERATE_TASK, generate_queue
from scripts.stack import ports
from tests.acceptance.stack import Json, Part, Stack, answers, eventually

USER, PASSWORD = "operator", "marker-password"


@dataclass(frozen=True)
class Flower:
    """The running process, its address and somebody who is logged in."""

    part: Part
    url: str
    session: requests.Session

    def ready(self) -> None:
        """Wait until it answers."""
        eventually(partial(answers, f"{self.url}/healthcheck"), "Flower is up")

    def get(self, path: str) -> Json:
        """What its API answers."""
        return self.session.get(f"{self.url}/api/{path}", timeout=30).json()


@pytest.fixture(scope="module")
def flower(stack: Stack) -> Iterator[Flower]:
    port = ports.find_free()
    part = stack.flower(
        FLOWER_ADDRESS=ports.LOCALHOST,
        FLOWER_PORT=str(port),
        FLOWER_BASIC_AUTH=f"{USER}:{PASSWORD}",
        FLOWER_PERSISTENT="true",
        FLOWER_DB=str(stack.folder / "flower.db"),
    )
    with requests.Session() as session:
        session.trust_env = False
        session.auth = (USER, PASSWORD)
        running = Flower(part, f"http://{ports.LOCALHOST}:{port}", session)
        running.ready()
        yield running


@pytest.fixture(scope="module")
def job_id(stack: Stack, api: Part, worker: Part, flower: Flower) -> str:
    """A job that was done while Flower watched."""
    eventually(lambda: flower.get("workers?refresh=1"), "Flower found the worker")
    me = stack.open_account()
    job_id = me.submit("marker-prompt", max_tokens=5)
    me.until(job_id, "succeeded")
    return job_id


@pytest.mark.parametrize("path", ["/", "/tasks", "/broker", "/api/workers", "/api/tasks"])
@pytest.mark.parametrize("login", [None, (USER, "wrong"), ("nobody", PASSWORD)])
def test_flower_refuses_who_has_not_logged_in(
    path: str, login: tuple[str, str] | None, flower: Flower
) -> None:
    with requests.Session() as session:
        session.trust_env = False
        assert session.get(flower.url + path, auth=login, timeout=30).status_code == 401


@pytest.mark.usefixtures("job_id")
def test_flower_shows_the_worker_with_its_queue(flower: Flower) -> None:
    def look() -> Json | None:
        (worker,) = flower.get("workers?refresh=1").values()
        return worker if {"active_queues", "stats"} <= worker.keys() else None

    worker = eventually(look, "Flower has inspected the worker")

    assert [queue["name"] for queue in worker["active_queues"]] == [generate_queue("fake")]
    assert worker["stats"]["pool"]["max-concurrency"] == 16


def test_flower_shows_the_task_of_a_job_by_the_jobs_id(flower: Flower, job_id: str) -> None:
    task = done_task(flower)

    assert job_id in task["args"]
    assert task["worker"].startswith("worker-fake@")
    assert "marker-prompt" not in flower.part.log.read_text() + str(flower.get("tasks"))


def done_task(flower: Flower) -> Json:
    def look() -> Json | None:
        tasks = flower.get(f"tasks?taskname={GENERATE_TASK}&state=SUCCESS")
        return next(iter(tasks.values()), None)

    return eventually(look, "Flower shows the task as done")


def test_flowers_login_is_not_on_its_command_line(flower: Flower) -> None:
    assert PASSWORD not in " ".join(psutil.Process(flower.part.process.pid).cmdline())


def test_flower_remembers_its_tasks_when_it_is_started_again(flower: Flower, job_id: str) -> None:
    done_task(flower)

    flower.part.stop()
    flower.part.start()
    flower.ready()

    assert job_id in done_task(flower)["args"]
