"""How soon clients in ``Prefer: wait`` hear of the end, and what their waiting costs the database.

``--connections`` clients (500) wait for a job each. The jobs are then ended one by one, by the
functions that a worker calls, and each client notes when its answer came. Before that, the
transactions of the database are counted for a while: with all of them waiting, and, as the
baseline, with none.
"""

import argparse
import json
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2

from app.config import Settings
from app.jobs import finish
from app.jobs.claim import claim
from app.jobs.transition import Lease
from scripts.benching import bed
from scripts.benching.bed import Bed
from scripts.benching.figures import Figure, alone, percentile
from scripts.benching.growth import RESULT
from scripts.benching.load import Load
from scripts.benching.notes import Notes
from scripts.benching.submit import product
from scripts.stack.ports import LOCALHOST
from scripts.stack.problem import Problem
from workers.process import Process, compose

PAUSE_SECONDS = 0.02  # between two ends
SETTLE_SECONDS = 12.0  # PostgreSQL counts what idle connections did up to 10 s late
PATIENCE_SECONDS = 30.0
COMMITS = "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database"


def add_options(command: argparse.ArgumentParser) -> None:
    """Those of this benchmark alone."""
    command.set_defaults(connections=500)


def run(options: argparse.Namespace, notes: Notes) -> list[Figure]:
    """Count with nobody waiting, count with all of them, and end their jobs."""
    p50, p99, busy, idle = [], [], [], []
    with bed.made() as ground:
        ground.start(ground.stack.api())
        process = compose(
            Settings(database_url=ground.stack.database_url, redis_url=ground.stack.redis_url)
        )
        for _ in range(options.rounds):
            idle.append(transactions(ground, options.seconds))
            with waiting(product(ground), options.connections) as clients:
                time.sleep(SETTLE_SECONDS)
                busy.append(transactions(ground, options.seconds))
                told = end(process, clients)
            p50.append(percentile(told, 50))
            p99.append(percentile(told, 99))
            notes.say(
                f"{len(told)} clients: told after p50 {p50[-1]:.1f} ms, p99 {p99[-1]:.1f} ms; "
                f"{busy[-1]:.2f} transactions/s while they wait, {idle[-1]:.2f} when nobody does"
            )
        process.database.close()
    return [
        alone("told_p50", "ms", p50),
        alone("told_p99", "ms", p99),
        alone("waiting_transactions", "1/s", busy),
        alone("idle_transactions", "1/s", idle),
    ]


class Clients:
    """Connections that each wait for the end of a job of their own."""

    def __init__(self, request: Load, count: int) -> None:
        headers = {**request.headers, "Prefer": "wait=60"}
        message = Load(
            port=request.port, path=request.path, body=request.body, headers=headers
        ).message()
        self.count = count
        self._selector = selectors.DefaultSelector()
        for _ in range(count):
            connection = socket.create_connection((LOCALHOST, request.port))
            connection.sendall(message)
            self._selector.register(connection, selectors.EVENT_READ, bytearray())

    def told(self) -> Iterator[tuple[str, float]]:
        """The ids of jobs whose answers are here by now, and the moment (monotonic) of each."""
        for key, _ in self._selector.select(timeout=0):
            assert isinstance(key.fileobj, socket.socket)
            key.data.extend(key.fileobj.recv(65_536))
            head, _, body = bytes(key.data).partition(b"\r\n\r\n")
            _, _, length = head.lower().partition(b"content-length: ")
            if body and len(body) >= int(length.partition(b"\r\n")[0]):
                job = json.loads(body)
                if job["finished"] is None:
                    raise Problem("A client was answered before the end of its job.")
                self._selector.unregister(key.fileobj)
                key.fileobj.close()
                yield job["id"], time.monotonic()

    def close(self) -> None:
        """Hang up."""
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()


@contextmanager
def waiting(request: Load, count: int) -> Iterator[Clients]:
    """So many clients, for the length of the block."""
    with closing(Clients(request, count)) as clients:
        yield clients


def transactions(ground: Bed, seconds: float) -> float:
    """Transactions of PostgreSQL per second, without those of the one who asks."""
    with closing(psycopg2.connect(ground.stack.database_url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()

        def committed() -> int:
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            cursor.execute(COMMITS)
            (count,) = cursor.fetchone() or (0,)
            return int(count)

        before = committed()
        time.sleep(seconds)
        return max(committed() - before - 2, 0) / seconds


def end(process: Process, clients: Clients) -> list[float]:
    """End the job of each client; the milliseconds from each call to the client's answer."""
    ended: dict[str, float] = {}
    told: dict[str, float] = {}
    deadline = time.monotonic() + PATIENCE_SECONDS
    for lease in claim_all(process, clients.count):
        ended[str(lease.job_id)] = time.monotonic()  # before it is stored: no worse than it is
        process.finish(finish.succeeded(lease, RESULT))
        until = time.monotonic() + PAUSE_SECONDS
        while time.monotonic() < until:
            told.update(clients.told())
    while len(told) < clients.count:
        if time.monotonic() > deadline:
            raise Problem(f"Of {clients.count} clients only {len(told)} were told.")
        told.update(clients.told())
    return [(told[job_id] - moment) * 1000 for job_id, moment in ended.items()]


def claim_all(process: Process, count: int) -> list[Lease]:
    """Take the jobs of all clients."""
    with process.database.transaction() as session:
        claimed = claim(
            session, [(bed.MODEL, "1")], worker="bench", lease_seconds=3600, limit=count
        )
    if len(claimed) != count:
        raise Problem(f"{len(claimed)} jobs wait, not {count}.")
    return [each.lease for each in claimed]
