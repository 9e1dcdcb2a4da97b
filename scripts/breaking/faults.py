"""The deck: everything that a run does to the parts, and how each is put right."""

import random
import signal
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass

import psycopg2
import redis

from scripts.breaking.actor import Actor
from scripts.breaking.stage import LEASE_SECONDS, Stage

Repair = Callable[[], None]
SHORTLY = (0.0, 2.0)  # seconds that a part stays down
# A frozen worker wakes up when its jobs have long been given to others.
BEYOND_THE_LEASE = (1.3 * LEASE_SECONDS, 2 * LEASE_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """``strike`` breaks; what it returns, if anything, puts right after some ``seconds``."""

    name: str
    victim: str  # nothing else is done to it in the meantime
    strike: Callable[[], Repair | None]
    seconds: tuple[float, float] = SHORTLY


def deck(stage: Stage, chance: random.Random) -> list[Fault]:
    """Every fault once, in random order: even a short run meets as many kinds as it can."""
    killed = ("api", "worker-1", "worker-2", "delivery", "beat", "valkey")
    faults = [
        *(_kill(stage, stage.actors[name]) for name in killed),
        *(_freeze(stage.actors[name]) for name in ("worker-1", "worker-2")),
        _stop_postgres(stage, "restart of postgres", signal.SIGINT),
        _stop_postgres(stage, "crash of postgres", signal.SIGQUIT),
        Fault(name="backends terminated", victim="postgres", strike=lambda: _terminate(stage)),
        Fault(name="FLUSHALL", victim="valkey", strike=lambda: _flush(stage)),
    ]
    chance.shuffle(faults)
    return faults


def _kill(stage: Stage, actor: Actor) -> Fault:
    def strike() -> Repair:
        with stage.api_away.beginning() if actor.name == "api" else nullcontext():
            actor.kill()
        return actor.start

    return Fault(name=f"SIGKILL of {actor.name}", victim=actor.name, strike=strike)


def _freeze(actor: Actor) -> Fault:
    def strike() -> Repair:
        actor.freeze()
        return actor.thaw

    return Fault(
        name=f"SIGSTOP of {actor.name}",
        victim=actor.name,
        strike=strike,
        seconds=BEYOND_THE_LEASE,
    )


def _stop_postgres(stage: Stage, name: str, how: signal.Signals) -> Fault:
    """SIGINT is its fast shutdown; SIGQUIT ends it at once, without a checkpoint."""
    actor = stage.actors["postgres"]

    def strike() -> Repair:
        actor.stop(how)
        return actor.start

    return Fault(name=name, victim="postgres", strike=strike)


def _terminate(stage: Stage) -> None:
    with closing(psycopg2.connect(stage.database_url)) as connection:
        connection.cursor().execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )


def _flush(stage: Stage) -> None:
    with redis.Redis.from_url(stage.redis_url) as client:
        client.flushall()
