"""GPTQueue as real processes, each with its own log, for tests that look at it from outside."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import requests

from app import schema
from app.accounts import admin
from app.config import Settings
from app.db import Database
from app.webhooks.secrets import read_secret
from scripts.stack import ports, processes
from scripts.stack.processes import Command

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_SECONDS = 60
Json = dict[str, Any]
Found = TypeVar("Found")


def eventually(look: Callable[[], Found | None], what: str) -> Found:
    """What ``look`` finds, as soon as it finds something."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.1)
    return found


@dataclass
class Part:
    """One running process."""

    command: Command
    log: Path
    process: Any = None

    def start(self) -> None:
        """Start, or start again."""
        with self.log.open("ab") as output:
            self.process = processes.start(self.command, output, ROOT)

    def stop(self) -> None:
        """Ask it to end, and wait."""
        processes.stop(self.process, self.command, PATIENCE_SECONDS)

    def kill(self) -> None:
        """End it as a crash would."""
        processes.kill_group(self.process.pid)
        self.process.wait()

    def events(self, name: str) -> list[Json]:
        """The lines of this event in its JSON log."""
        lines = (line for line in self.log.read_text().splitlines() if f'"{name}"' in line)
        return [event for event in map(json.loads, lines) if event["event"] == name]


@dataclass(frozen=True)
class Client:
    """An account, as its owner reaches it over HTTP."""

    url: str
    key: str
    webhook_secret: str
    session: requests.Session

    def post(self, path: str, **body: Any) -> Json:
        """POST a JSON body; the document that was answered."""
        answer = self.session.post(f"{self.url}/api/v1/{path}", json=body, timeout=90)
        assert answer.ok, answer.text
        return answer.json()

    def get(self, path: str, **headers: str) -> Json:
        """GET a document."""
        answer = self.session.get(f"{self.url}/api/v1/{path}", headers=headers, timeout=90)
        assert answer.ok, answer.text
        return answer.json()

    def submit(self, prompt: str = "one two three", **body: Any) -> str:
        """Submit a job; its id."""
        return self.post("generate", **{"model": "fake", "prompt": prompt, **body})["id"]

    def job(self, job_id: str) -> Json:
        """The job as it is now."""
        return self.get(f"jobs/{job_id}")

    def until(self, job_id: str, *statuses: str) -> Json:
        """The job, once it has one of these statuses."""

        def look() -> Json | None:
            job = self.job(job_id)
            return job if job["status"] in statuses else None

        return eventually(look, f"job {job_id} {' or '.join(statuses)}")


@dataclass
class Stack:
    """Settings that processes share, and the processes; everything is stopped by ``close``."""

    settings: Settings
    environment: dict[str, str]
    folder: Path
    closing: ExitStack = field(default_factory=ExitStack)

    @contextmanager
    def opened(self) -> Iterator["Stack"]:
        """Stop everything at the end."""
        with self.closing:
            yield self

    def api(self, **environment: str) -> Part:
        """The API, answering at ``settings.public_url``."""
        part = self._start(
            "api",
            ["gunicorn", "-c", "python:app.server", "-b", self._bind(), "app.api:create_app()"],
            environment,
        )
        eventually(partial(answers, f"{self.settings.public_url}/api/v1/health"), "the API is up")
        return part

    def worker(self, model: str, **environment: str) -> Part:
        """A worker of one model; wait for its event ``model_ready`` if it matters."""
        return self._worker(f"worker-{model}", f"generate.{model}", "16", environment)

    def delivery(self, **environment: str) -> Part:
        """The worker of webhooks and sweeps."""
        return self._worker("delivery", "webhooks,maintenance", "4", environment)

    def beat(self) -> Part:
        """The clock of the sweeps."""
        schedule = str(self.folder / "beat")
        return self._start("beat", [*CELERY, "beat", "-s", schedule, "--pidfile="], {})

    def flower(self, **environment: str) -> Part:
        """The view of the queues; its options are environment variables."""
        return self._start("flower", [*CELERY, "flower"], environment)

    def open_account(self) -> Client:
        """A new account with a dollar of credit."""
        database = Database(self.settings, schema.metadata)
        self.closing.callback(database.close)
        session = self.closing.enter_context(requests.Session())
        session.trust_env = False  # a proxy has no business with 127.0.0.1
        with database.transaction() as transaction:
            account = admin.open_account(transaction, name="test", credit_micros=1_000_000)
            key = admin.issue_key(transaction, account_id=account.id, name="test")
            secret = read_secret(transaction, account.id)
        session.headers["Authorization"] = f"Bearer {key}"
        return Client(self.settings.public_url, key, secret, session)

    def _bind(self) -> str:
        return self.settings.public_url.removeprefix("http://")

    def _worker(self, name: str, queues: str, threads: str, environment: dict[str, str]) -> Part:
        options = ["-Q", queues, "-P", "threads", "-c", threads, "-n", f"{name}@%h", "-E"]
        return self._start(name, [*CELERY, "worker", *options], environment)

    def _start(self, name: str, module: list[str], environment: dict[str, str]) -> Part:
        number = len(list(self.folder.glob(f"{name}*.log")))
        argv = [sys.executable, "-m", *module]
        part = Part(
            Command(argv, {**self.environment, **environment}),
            self.folder / f"{name}-{number}.log",
        )
        part.start()
        self.closing.callback(part.stop)
        return part


CELERY = ["celery", "--quiet", "-A", "workers.entrypoint"]


def answers(url: str) -> bool:
    """Whether something says 200 there."""
    with requests.Session() as session:
        session.trust_env = False
        try:
            return session.get(url, timeout=5).ok
        except requests.RequestException:
            return False


def create(folder: Path, *, database_url: str, redis_url: str, catalog: str) -> Stack:
    """A stack on these servers with this catalog; nothing runs yet.

    Its clocks are short: what production does in seconds happens within one here.
    """
    catalog_file = folder / "catalog.toml"
    catalog_file.write_text(catalog)
    environment = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "GPTQUEUE_PUBLIC_URL": f"http://{ports.LOCALHOST}:{ports.find_free()}",
        "GPTQUEUE_CATALOG_FILE": str(catalog_file),
        "GPTQUEUE_LEASE_SECONDS": "4",
        "GPTQUEUE_HEARTBEAT_SECONDS": "0.5",
        "GPTQUEUE_CANCEL_POLL_SECONDS": "0.2",
        "GPTQUEUE_SWEEP_SECONDS": "0.5",
        "GPTQUEUE_REQUEUE_GRACE_SECONDS": "1",
        "GPTQUEUE_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    }
    settings = Settings(
        database_url=database_url,
        redis_url=redis_url,
        public_url=environment["GPTQUEUE_PUBLIC_URL"],
        catalog_file=catalog_file,
    )
    return Stack(settings, environment, folder)
