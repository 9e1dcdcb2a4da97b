"""PostgreSQL and Valkey: our own, unless the user brings some along."""

from pathlib import Path

import redis

from app import schema
from app.config import Settings
from app.db import Database
from app.errors import DatabaseUnavailable
from scripts.stack import postgres, valkey
from scripts.stack.choices import Choices
from scripts.stack.problem import Problem
from scripts.stack.state import State
from scripts.stack.supervisor import Part


def database(choices: Choices, state: State) -> tuple[str, Part | None]:
    """The address, and the part that serves it when it is ours; raises Problem if it is dead."""
    if _is_foreign(choices.database_url, state.postgres / "password"):
        _check_database(choices.database_url)
        return choices.database_url, None
    cluster = postgres.create(state.postgres)
    part = Part(name="postgres", command=cluster.command, ready=cluster.ready)
    return cluster.url, part


def broker(choices: Choices, state: State) -> tuple[str, Part | None]:
    """The same for the broker."""
    if _is_foreign(choices.redis_url, state.valkey / "password"):
        _check_broker(choices.redis_url)
        return choices.redis_url, None
    server = valkey.create(state.valkey)
    return server.url, Part(name="valkey", command=server.command, ready=server.ready)


def _is_foreign(url: str, own_password: Path) -> bool:
    """Whether the user chose this server; a shell that sourced .local/env names our own one."""
    return bool(url) and not (own_password.exists() and own_password.read_text().strip() in url)


def _check_database(url: str) -> None:
    connections = Database(Settings(database_url=url), schema.metadata)
    try:
        with connections.transaction() as session:
            session.connection()
    except DatabaseUnavailable as error:
        raise Problem(f"The database in DATABASE_URL does not answer: {error.__cause__}") from error
    finally:
        connections.close()


def _check_broker(url: str) -> None:
    with redis.Redis.from_url(url, socket_timeout=5) as client:
        try:
            client.ping()
        except redis.RedisError as error:
            raise Problem(f"The broker in REDIS_URL does not answer: {error}") from error
