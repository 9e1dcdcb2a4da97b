from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.config import Settings
from scripts.stack import settings
from scripts.stack.choices import Choices
from scripts.stack.parts import Stack
from scripts.stack.problem import Problem
from scripts.stack.state import State
from scripts.stack.up import Up


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(
        state=State(tmp_path),
        choices=Choices(port=1, flower_port=2, database_url="", redis_url=""),
        database_url="postgresql://127.0.0.1/nothing",
        redis_url="redis://127.0.0.1/0",
        flower_password="",
    )


def test_a_worker_may_end_its_jobs_before_it_is_killed(stack: Stack) -> None:
    needed = Settings().shutdown_grace_seconds + 10  # to hand back what has not ended
    assert stack.worker("fake").grace_seconds >= needed
    assert stack.delivery().grace_seconds >= needed
    assert stack.api().grace_seconds < needed


def started(stack: Stack, models: list[str], gpus: str) -> dict[str, dict[str, str]]:
    """The environments of the workers that scripts/up starts, by name."""
    parts: list[Any] = []
    up: Any = SimpleNamespace(supervisor=SimpleNamespace(start=lambda *some: parts.extend(some)))
    Up.start_parts(up, stack, models, settings.gpus(gpus))
    workers = [part for part in parts if part.name.startswith("worker-")]
    return {part.name: dict(part.command().environment) for part in workers}


def test_each_gpu_gets_a_worker_of_its_own_that_never_falls_back_to_the_cpu(stack: Stack) -> None:
    workers = started(stack, ["a", "b"], "0, GPU-8932")
    assert {
        name: (
            environment["CUDA_VISIBLE_DEVICES"],
            environment["CUDA_DEVICE_ORDER"],
            environment["GPTQUEUE_DEVICE"],
        )
        for name, environment in workers.items()
    } == {
        "worker-a-gpu0": ("0", "PCI_BUS_ID", "cuda"),
        "worker-a-GPU-8932": ("GPU-8932", "PCI_BUS_ID", "cuda"),
        "worker-b-gpu0": ("0", "PCI_BUS_ID", "cuda"),
        "worker-b-GPU-8932": ("GPU-8932", "PCI_BUS_ID", "cuda"),
    }


def test_each_worker_tells_celery_its_own_name(stack: Stack) -> None:
    argv = [str(word) for word in stack.worker("a", gpu="1").command().argv]
    assert argv[argv.index("-n") + 1] == "worker-a-gpu1@%h"


def test_without_a_choice_the_devices_are_left_to_the_settings(stack: Stack) -> None:
    workers = started(stack, ["a"], "")
    assert list(workers) == ["worker-a"]
    assert not {"CUDA_VISIBLE_DEVICES", "GPTQUEUE_DEVICE"} & workers["worker-a"].keys()


def test_all_gpus_are_those_that_the_driver_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "visible", lambda _: ["0", "1"])
    assert settings.gpus("all") == ["0", "1"]


@pytest.mark.parametrize("wanted", ["all", "0,0", "0,,1", ","])
def test_a_choice_that_names_no_gpu_or_one_twice_is_refused(
    wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "visible", lambda _: [])
    with pytest.raises(Problem, match=f"--gpus {wanted}"):
        settings.gpus(wanted)
