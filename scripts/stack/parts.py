"""The parts of GPTQueue: what each runs, and when it is ready."""

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from celery import Celery

from app.config import Settings
from scripts.stack import models, ports
from scripts.stack.choices import Choices
from scripts.stack.client import Client, answers
from scripts.stack.processes import WORKER_GRACE_SECONDS, Command
from scripts.stack.state import ROOT, State
from scripts.stack.supervisor import Part

FLOWER_USER = "gptqueue"
READY_SECONDS = 90


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What the parts have in common."""

    state: State
    choices: Choices
    database_url: str
    redis_url: str
    flower_password: str

    def environment(self) -> dict[str, str]:
        """The environment of every part, on top of the user's own."""
        networks = os.environ.get("GPTQUEUE_WEBHOOK_ALLOWED_NETWORKS", "")
        return {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "GPTQUEUE_PUBLIC_URL": os.environ.get("GPTQUEUE_PUBLIC_URL", self.choices.url),
            "GPTQUEUE_CATALOG_FILE": str(Settings().catalog_file.absolute()),
            "GPTQUEUE_MODELS_DIR": str(models.folder_of(self.state)),
            "GPTQUEUE_WEBHOOK_ALLOWED_NETWORKS": f"127.0.0.0/8,{networks}",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    def migration(self) -> Command:
        """Bring the schema up to date."""
        return self._python("alembic", "-c", ROOT / "migrations" / "alembic.ini", "upgrade", "head")

    def api(self) -> Part:
        """gunicorn with the Flask application."""
        bind = f"{ports.LOCALHOST}:{self.choices.port}"
        command = self._python(
            "gunicorn", "--config", "python:app.server", "--bind", bind, "app.api:create_app()"
        )
        return _part("api", command, Client(self.choices.url).healthy)

    def worker(self, model: str, *, name: str = "", slots: int = 0, gpu: str = "") -> Part:
        """A worker of one model, under a name of its own, with so many jobs at a time (0: as the
        setting says), on one GPU (empty: where the settings say); it is ready when the model is
        loaded.
        """
        slots = slots or Settings().engine_slots
        name, client = name or worker_name(model, gpu), Client(self.choices.url)
        command = self._worker(name, f"generate.{model}", threads=slots)
        environment = {"GPTQUEUE_ENGINE_SLOTS": str(slots), **gpu_environment(gpu)}
        command = replace(command, environment={**command.environment, **environment})
        node = f"{name}@{platform.node()}"
        return replace(
            _part(name, command, lambda: client.has_worker(model, "ready", node)),
            busy=lambda: client.has_worker(model, "loading"),
            grace_seconds=WORKER_GRACE_SECONDS,
        )

    def delivery(self) -> Part:
        """The worker that sends webhooks and sweeps."""
        celery = Celery(broker=self.redis_url)
        node = f"delivery@{platform.node()}"
        command = self._worker("delivery", "webhooks,maintenance", threads=4)
        return replace(
            _part("delivery", command, lambda: bool(celery.control.ping([node], timeout=1))),
            grace_seconds=WORKER_GRACE_SECONDS,
        )

    def beat(self) -> Part:
        """The clock of the sweep."""
        schedule = self.state.beat / "schedule"
        command = self._celery("beat", "--schedule", schedule, "--pidfile", "")
        return _part("beat", command, lambda: True)

    def flower(self) -> Part:
        """The view of the queues, behind a login."""
        login = {
            "FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{self.flower_password}",
            "FLOWER_ADDRESS": ports.LOCALHOST,
            "FLOWER_PORT": str(self.choices.flower_port),
            "FLOWER_PERSISTENT": "true",
            "FLOWER_DB": str(self.state.flower / "flower"),
            "FLOWER_STATE_SAVE_INTERVAL": "10000",
        }
        health = f"{self.choices.flower_url}/healthcheck"
        return _part("flower", self._celery("flower", **login), lambda: answers(health))

    def _worker(self, name: str, queues: str, *, threads: int) -> Command:
        return self._celery(
            "worker", "-Q", queues, "-P", "threads", "-c", threads, "-n", f"{name}@%h", "-E",
            "--without-gossip", "--without-mingle",
        )  # fmt: skip

    def _celery(self, *arguments: str | int | Path, **environment: str) -> Command:
        return self._python(
            "celery", "-A", "workers.entrypoint", "--quiet", *arguments, **environment
        )

    def _python(self, module: str, *arguments: str | int | Path, **environment: str) -> Command:
        argv = [sys.executable, "-m", module, *map(str, arguments)]
        return Command(argv, {**self.environment(), **environment})


def worker_name(model: str, gpu: str) -> str:
    """What a worker is called, which is unique on this machine."""
    if not gpu:
        return f"worker-{model}"
    return f"worker-{model}-gpu{gpu}" if gpu.isdecimal() else f"worker-{model}-{gpu}"


def gpu_environment(gpu: str) -> dict[str, str]:
    """What makes a worker use this GPU, by number or UUID, and no other; never the CPU instead."""
    if not gpu:
        return {}
    return {
        "CUDA_VISIBLE_DEVICES": gpu,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as NVML numbers them
        "GPTQUEUE_DEVICE": "cuda",
    }


def _part(name: str, command: Command, ready: Callable[[], bool]) -> Part:
    return Part(name=name, command=lambda: command, ready=ready, ready_seconds=READY_SECONDS)
