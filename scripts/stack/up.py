"""``scripts/up``: from nothing to a generated, stored, billed and delivered job."""

import argparse
import errno
import secrets
import sys
import time
from contextlib import ExitStack, suppress
from functools import partial

from scripts.stack import account, demo, down, remembered, report, servers, settings
from scripts.stack.alone import alone
from scripts.stack.choices import Choices
from scripts.stack.client import Client
from scripts.stack.interrupts import Interrupts, Stopped
from scripts.stack.journal import Journal
from scripts.stack.models import check_disk, prepare
from scripts.stack.parts import FLOWER_USER, Stack
from scripts.stack.problem import Problem
from scripts.stack.receiver import Receiver
from scripts.stack.screen import Screen
from scripts.stack.state import State
from scripts.stack.supervisor import Backoff, Supervisor

NEEDED_BYTES = 300_000_000


class Up:
    """One run of the command."""

    def __init__(self, screen: Screen, interrupts: Interrupts) -> None:
        self.screen = screen
        self.state = State.here()
        self.journal = Journal(self.state.log, screen)
        self.supervisor = Supervisor(
            run=self.state.run,
            cwd=self.state.folder,  # some libraries write logs where they are
            journal=self.journal,
            screen=screen,
            interrupts=interrupts,
            backoff=Backoff(),
        )
        self.closing = ExitStack()

    def run(self, *, once: bool, gpus: str) -> int:
        """Start everything, do the first job, and stay; the exit code. ``gpus`` as on the command
        line.
        """
        choices, names = Choices.of_environment(), settings.gpus(gpus)
        models = settings.models(settings.read().catalog_file)
        down.stop_parts(self.state, self.screen)
        choices.check_ports()
        servers.check(choices, self.state)  # before the demo model, which takes minutes
        prepare(list(models.values()), self.state, self.screen)
        stack = self.start_servers(choices)
        # An adapter is served by the worker of its base.
        bases = [name for name, model in models.items() if model.current.base is None]
        self.start_parts(stack, bases, names)
        receiver = self.receive(stack)
        outcome = demo.run(
            Client(choices.url, self.state.read_env()["GPTQUEUE_API_KEY"]),
            receiver,
            model=bases[0],
            screen=self.screen,
            tend=self.supervisor.tend,
        )
        report.show_job(self.screen, outcome, self.state.log)
        if not once:
            report.show_next(self.screen, stack, receiver, model=outcome.model)
            self.stay()
        return 1 if outcome.failures else 0

    def start_servers(self, choices: Choices) -> Stack:
        """PostgreSQL and Valkey, with an up-to-date schema."""
        with self.screen.step(
            "Looking for PostgreSQL and Valkey", "PostgreSQL and Valkey are there"
        ):
            database_url, postgres = servers.database(choices, self.state)
            redis_url, valkey = servers.broker(choices, self.state)
        if postgres and self.state.postgres.is_symlink():
            where = self.state.postgres.resolve()
            self.screen.say(
                f"  PostgreSQL's files are in {where}: this folder is closed to its user."
            )
        self.supervisor.start(*filter(None, (postgres, valkey)))
        password = self.state.read_env().get("FLOWER_PASSWORD") or secrets.token_urlsafe(12)
        stack = Stack(
            state=self.state,
            choices=choices,
            database_url=database_url,
            redis_url=redis_url,
            flower_password=password,
        )
        with self.screen.step("Migrating the database", "The database schema is up to date"):
            self.supervisor.finish("migrate", stack.migration())
        return stack

    def start_parts(self, stack: Stack, models: list[str], gpus: list[str]) -> None:
        """GPTQueue itself, all at once: loading a model takes the longest."""
        workers = [stack.worker(model, gpu=gpu) for model in models for gpu in gpus]
        self.supervisor.start(stack.api(), stack.delivery(), stack.beat(), *workers)
        self.supervisor.start(stack.flower())  # it asks the workers for their queues when it starts

    def receive(self, stack: Stack) -> Receiver:
        """The demo account, and a receiver of its webhooks."""
        owner = account.demo(stack.database_url, self.state.read_env().get("GPTQUEUE_API_KEY", ""))
        receiver = Receiver(
            remembered.port(self.state.receiver_port),
            owner.webhook_secret,
            partial(self.journal.write, "receiver"),
        )
        receiver.start()
        self.closing.callback(receiver.stop)
        self.write_env(stack, owner, receiver)
        return receiver

    def write_env(self, stack: Stack, owner: account.Demo, receiver: Receiver) -> None:
        """For other shells."""
        self.state.write_env(
            {
                "GPTQUEUE_URL": stack.choices.url,
                "GPTQUEUE_API_KEY": owner.key,
                "GPTQUEUE_WEBHOOK_SECRET": owner.webhook_secret,
                "GPTQUEUE_RECEIVER_URL": receiver.url,
                "DATABASE_URL": stack.database_url,
                "REDIS_URL": stack.redis_url,
                "FLOWER_URL": stack.choices.flower_url,
                "FLOWER_USER": FLOWER_USER,
                "FLOWER_PASSWORD": stack.flower_password,
            }
        )

    def stay(self) -> None:
        """Show the logs and keep the parts alive until the user has enough."""
        self.journal.show()
        with suppress(Stopped):
            while True:
                self.supervisor.tend()
                time.sleep(0.2)

    def stop(self) -> None:
        """Everything that was started, and nothing else."""
        self.closing.close()
        if self.supervisor.busy:
            self.screen.say("Stopping; jobs in hand are finished first.")
        self.supervisor.stop()
        self.journal.close()


def guarded(screen: Screen, interrupts: Interrupts, *, once: bool, gpus: str) -> int:
    """Run, and stop whatever happens."""
    up = Up(screen, interrupts)
    up.state.create()
    check_disk(up.state.folder, NEEDED_BYTES)
    with alone(up.state):
        try:
            return up.run(once=once, gpus=gpus)
        finally:
            interrupts.ignore()
            up.stop()


def explain(error: OSError) -> str:
    """A sentence about what the machine refused."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full: {error.filename or error}"
    if error.errno == errno.EROFS:
        return f"Nothing can be written here: {error}"
    if isinstance(error, PermissionError):
        return f"No permission for {error.filename}: was the stack run as another user before?"
    raise error


def main() -> int:
    """Parse, run, explain."""
    parser = argparse.ArgumentParser(prog="scripts/up", description=__doc__)
    parser.add_argument("--once", action="store_true", help="do the first job, then stop again")
    parser.add_argument(
        "--gpus",
        default="",
        metavar="all|0,1",
        help="a worker of each model on each of these GPUs (numbers or UUIDs), and none on the CPU",
    )
    options = parser.parse_args()
    screen, interrupts = Screen(), Interrupts()
    interrupts.install()
    try:
        return guarded(screen, interrupts, once=options.once, gpus=options.gpus)
    except Problem as problem:
        screen.fail(str(problem))
    except OSError as error:
        screen.fail(explain(error))
    except Stopped:
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
