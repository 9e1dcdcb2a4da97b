"""PostgreSQL and Valkey: our own, unless the user brings some along."""

from pathlib import Path

import redis
from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings
from app.errors import DatabaseUnavailable
from scripts.stack import postgres, settings, valkey
from scripts.stack.choices import Choices
from scripts.stack.problem import Problem
from scripts.stack.state import State
from scripts.stack.supervisor import Part


def check(choices: Choices, state: State) -> None:
    """Raise Problem when a server that the user brings along does not answer."""
    if _brings_database(choices, state):
        _check_database(choices.database_url)
    if _brings_broker(choices, state):
        _check_broker(choices.redis_url)


def database(choices: Choices, state: State) -> tuple[str, Part | None]:
    """The address, and the part that serves it when it is ours."""
    if _brings_database(choices, state):
        return choices.database_url, None
    cluster = postgres.create(state.postgres)
    part = Part(name="postgres", command=cluster.command, ready=cluster.ready)
    return cluster.url, part


def broker(choices: Choices, state: State) -> tuple[str, Part | None]:
    """The same for the broker."""
    if _brings_broker(choices, state):
        return choices.redis_url, None
    server = valkey.create(state.valkey)
    return server.url, Part(name="valkey", command=server.command, ready=server.ready)


def _brings_database(choices: Choices, state: State) -> bool:
    return _is_foreign(choices.database_url, state.postgres / "password")


def _brings_broker(choices: Choices, state: State) -> bool:
    return _is_foreign(choices.redis_url, state.valkey / "password")


def _is_foreign(url: str, own_password: Path) -> bool:
    """Whether the user chose this server; a shell that sourced .local/env names our own one."""
    return bool(url) and not (own_password.exists() and own_password.read_text().strip() in url)


def _check_database(url: str) -> None:
    connections = settings.connect(Settings(database_url=url))
    try:
        with connections.transaction() as session:
            session.connection()
    except DatabaseUnavailable as error:
        raise Problem(f"The database in DATABASE_URL does not answer: {error.__cause__}") from error
    except SQLAlchemyError as error:  # an option in the address that its driver does not know
        raise Problem(f"The database in DATABASE_URL cannot be used: {error}") from error
    finally:
        connections.close()


def _check_broker(url: str) -> None:
    try:
        with redis.Redis.from_url(url, socket_timeout=5) as client:
            client.ping()
    except redis.RedisError as error:
        raise Problem(f"The broker in REDIS_URL does not answer: {error}") from error
    except (ValueError, TypeError) as error:
        # Without the address itself: it may hold a password.
        raise Problem(
            "REDIS_URL is no address of a broker; one looks like redis://:password@host:6379/0."
        ) from error
