"""All of GPTQueue, with servers of its own and short clocks, for a run of ``scripts/chaos``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command as alembic
from alembic.config import Config

from app import schema
from app.accounts import admin
from app.config import Settings
from app.db import Database
from app.webhooks.secrets import read_secret
from scripts.breaking.actor import Actor
from scripts.breaking.downtime import Downtime
from scripts.breaking.receiver import Receiver
from scripts.stack import ports, postgres, valkey
from scripts.stack.choices import Choices
from scripts.stack.interrupts import Interrupts
from scripts.stack.parts import Stack
from scripts.stack.state import ROOT, State
from scripts.stack.supervisor import Part

MODEL = "fake"
# Each job at its own 50 tokens a second; some fail at their end.
CATALOG = f"""
[models.{MODEL}]
enabled = true
context_length = 2048
input_price_micros = 1_500_000
output_price_micros = 2_300_000
version = "1"
[models.{MODEL}.versions.1]
source = "fake:tokens_per_second=50&answer_tokens=200&fail_every=15"
engine = "fake"
"""
LEASE_SECONDS = 4.0
# What production does in seconds happens within one here.
CLOCKS = {
    "GPTQUEUE_LEASE_SECONDS": str(LEASE_SECONDS),
    "GPTQUEUE_HEARTBEAT_SECONDS": "0.5",
    "GPTQUEUE_CANCEL_POLL_SECONDS": "0.2",
    "GPTQUEUE_SWEEP_SECONDS": "0.5",
    "GPTQUEUE_REQUEUE_GRACE_SECONDS": "1",
    "GPTQUEUE_WEBHOOK_TIMEOUT_SECONDS": "2",
}
# In micro-USD. The last customer's credit runs out on the way.
CREDITS = (10**12, 10**12, 10**12, 10**12, 20_000)


@dataclass(frozen=True, slots=True)
class Customer:
    """An account that submits jobs."""

    id: str
    key: str


class Stage:
    """The parts by name, and the customers."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._folder = Path()
        self.actors: dict[str, Actor] = {}
        self.customers: Sequence[Customer] = ()
        self.api_away = Downtime()
        self.obituaries: list[str] = []  # of parts that ended without our doing

    def open(self, folder: Path, receiver: Receiver) -> None:
        """Start everything and wait until it is ready."""
        self._folder = folder
        self._start_servers()
        self._prepare_database(receiver)
        stack = self._stack()
        workers = [stack.worker(MODEL, name=name) for name in ("worker-1", "worker-2")]
        self._start(stack.api())
        self._start(*workers, stack.delivery(), stack.beat())

    def close(self) -> None:
        """End everything; PostgreSQL in order, so that it leaves nothing behind."""
        for actor in reversed(self.actors.values()):
            actor.stop() if actor.name == "postgres" else actor.kill()

    def _start(self, *parts: Part) -> None:
        environment = {"GPTQUEUE_CATALOG_FILE": str(self._folder / "catalog.toml"), **CLOCKS}
        actors = [
            Actor(part, folder=self._folder, environment=environment, interrupts=self._interrupts)
            for part in parts
        ]
        for actor in actors:
            self.actors[actor.name] = actor
            actor.start()
        for actor in actors:
            actor.wait_until_ready()

    def _start_servers(self) -> None:
        # Durable, as in production: a commit that need not reach the disk is no commit.
        cluster = postgres.create(self._folder / "postgres", durable=True)
        broker = valkey.create(self._folder / "valkey")
        self.database_url, self.redis_url = cluster.url, broker.url
        self._start(
            Part(name="postgres", command=cluster.command, ready=cluster.ready),
            Part(name="valkey", command=broker.command, ready=broker.ready),
        )

    def _stack(self) -> Stack:
        (self._folder / "catalog.toml").write_text(CATALOG)
        state = State(self._folder)
        state.create()
        self.port = ports.find_free()
        return Stack(
            state=state,
            choices=Choices(port=self.port, flower_port=0, database_url="", redis_url=""),
            database_url=self.database_url,
            redis_url=self.redis_url,
            flower_password="",
        )

    def _prepare_database(self, receiver: Receiver) -> None:
        config = Config(str(ROOT / "migrations" / "alembic.ini"))
        config.set_main_option("sqlalchemy.url", self.database_url)
        alembic.upgrade(config, "head")
        database = Database(Settings(database_url=self.database_url), schema.metadata)
        customers = []
        for credit in CREDITS:
            with database.transaction() as session:
                account = admin.open_account(session, name="chaos", credit_micros=credit)
                key = admin.issue_key(session, account_id=account.id, name="chaos")
                receiver.secrets.append(read_secret(session, account.id))
            customers.append(Customer(str(account.id), key))
        self.customers = customers
        database.close()


@contextmanager
def built(interrupts: Interrupts) -> Iterator[Stage]:
    """A stage for the length of the block; from its end on, signals no longer interrupt."""
    stage = Stage(interrupts)
    try:
        yield stage
    finally:
        interrupts.ignore()
        stage.close()
