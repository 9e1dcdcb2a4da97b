"""What a benchmark runs on: servers and processes of its own, on free ports, gone afterwards."""

import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg2
from alembic import command as alembic
from alembic.config import Config

from app import schema
from app.accounts import admin
from app.config import Settings
from app.db import Database
from scripts.benching import baseline
from scripts.stack import ports, postgres, processes, valkey
from scripts.stack.choices import Choices
from scripts.stack.parts import Stack
from scripts.stack.problem import Problem
from scripts.stack.state import ROOT, State
from scripts.stack.supervisor import Part

STOP_SECONDS = 20
CREDIT_MICROS = 10**15
MODEL = "fake"
CATALOG = """
[models.{model}]
enabled = true
context_length = 2048
input_price_micros = 1_000_000
output_price_micros = 2_000_000
version = "1"
[models.{model}.versions.1]
source = "{source}"
engine = "{engine}"
"""
# An engine that answers at once: what is measured is everything around it.
FAKE = CATALOG.format(model=MODEL, source="fake:", engine="fake")


class Bed:
    """Servers with the schema, an account with credit, and the parts that a benchmark starts."""

    def __init__(self, folder: Path, stopping: ExitStack, catalog: str) -> None:
        self._folder = folder
        self._stopping = stopping
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {"GPTQUEUE_CATALOG_FILE": str(folder / "catalog.toml")}
        (folder / "catalog.toml").write_text(catalog)
        self.stack = self._start_servers()
        self.key = self._prepare_database()

    def start(self, *parts: Part) -> None:
        """Start these together and wait until each is ready."""
        for part in parts:
            self._start(part)

    def resident_bytes(self, name: str) -> int:
        """The memory of a part that runs, with its children."""
        process = psutil.Process(self._processes[name].pid)
        family = [process, *process.children(recursive=True)]
        return sum(each.memory_info().rss for each in family)

    def restart_postgres(self, how: signal.Signals) -> None:
        """End PostgreSQL by this signal, and start it as soon as it has ended."""
        self._processes[self._postgres.name].send_signal(how)
        self._processes[self._postgres.name].wait(STOP_SECONDS)
        self._start(self._postgres)

    def _start(self, part: Part) -> None:
        command = part.command()
        command = replace(command, environment={**command.environment, **self._environment})
        log = self._folder / f"{part.name}.log"
        with log.open("ab") as output:
            process = processes.start(command, output, cwd=ROOT)
        self._processes[part.name] = process
        self._stopping.callback(processes.stop, process, command, STOP_SECONDS)
        deadline = time.monotonic() + part.ready_seconds
        while not part.ready():
            if processes.ended(process) or time.monotonic() > deadline:
                raise Problem(f"{part.name} did not start:\n{log.read_text()}")
            time.sleep(0.05)

    def _start_servers(self) -> Stack:
        # Durable, as in production: a commit that need not reach the disk is no commit.
        cluster = postgres.create(self._folder / "postgres", durable=True)
        broker = valkey.create(self._folder / "valkey")
        self._postgres = Part(name="postgres", command=cluster.command, ready=cluster.ready)
        self.start(self._postgres, Part(name="valkey", command=broker.command, ready=broker.ready))
        state = State(self._folder)
        state.create()
        return Stack(
            state=state,
            choices=Choices(port=ports.find_free(), flower_port=0, database_url="", redis_url=""),
            database_url=cluster.url,
            redis_url=broker.url,
            flower_password="",
        )

    def _prepare_database(self) -> str:
        """Make the tables of both sides and open the account; returns its key."""
        migrate(self.stack.database_url)
        with psycopg2.connect(self.stack.database_url) as connection:
            connection.cursor().execute(baseline.TABLE)
        connection.close()
        database = Database(Settings(database_url=self.stack.database_url), schema.metadata)
        with database.transaction() as session:
            account = admin.open_account(session, name="bench", credit_micros=CREDIT_MICROS)
            key = admin.issue_key(session, account_id=account.id, name="bench")
        database.close()
        return key


def migrate(url: str) -> None:
    """Make the product's tables."""
    config = Config(str(ROOT / "migrations" / "alembic.ini"))
    config.set_main_option("sqlalchemy.url", url)
    alembic.upgrade(config, "head")


@contextmanager
def made(catalog: str = FAKE) -> Iterator[Bed]:
    """A bed for the length of the block, which serves the models of ``catalog``, in TOML."""
    with (
        tempfile.TemporaryDirectory(prefix="gptqueue-bench-", ignore_cleanup_errors=True) as name,
        ExitStack() as stopping,
    ):
        # As root, PostgreSQL runs as another user, who has to get through.
        Path(name).chmod(0o711)
        yield Bed(Path(name), stopping, catalog)
