"""The processes of the baseline, started like those of the product."""

import sys
from dataclasses import dataclass, field

from celery import Celery

from scripts.stack import ports
from scripts.stack.client import answers
from scripts.stack.parts import Stack
from scripts.stack.processes import Command
from scripts.stack.supervisor import Part

THREADS = 64
NODE = "bare@bench"
QUEUE = "bare"
DONE = "bare.done"
TABLE = """
CREATE TABLE bare_jobs (
    id uuid PRIMARY KEY, prompt text NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True)
class Baseline:
    """Beside a stack, on its servers, with its environment."""

    stack: Stack
    port: int = field(default_factory=ports.find_free)

    def api(self) -> Part:
        """gunicorn with the same settings."""
        address = f"{ports.LOCALHOST}:{self.port}"
        command = self._python(
            *("gunicorn", "--config", "python:app.server", "--bind", address),
            "scripts.benching.bare:create_app()",
        )
        return Part(
            name="bare-api",
            command=lambda: command,
            ready=lambda: answers(f"http://{address}/empty"),
        )

    def worker(self) -> Part:
        """A Celery worker with Celery's own defaults."""
        command = self._python(
            *("celery", "-A", "scripts.benching.bare:celery", "worker", "-Q", QUEUE),
            *("-P", "threads", "-c", str(THREADS), "-n", NODE),
        )
        celery = Celery(broker=self.stack.redis_url)
        return Part(
            name="bare-worker",
            command=lambda: command,
            ready=lambda: bool(celery.control.ping([NODE], timeout=1)),
        )

    def _python(self, *arguments: str) -> Command:
        return Command([sys.executable, "-m", *arguments], self.stack.environment())
