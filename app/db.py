"""The database: one engine per process, and the only commit in the project."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    DateTime,
    Engine,
    ExceptionContext,
    MetaData,
    Uuid,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import ConnectionPoolEntry

from app.config import Settings
from app.errors import DatabaseUnavailable

FRESH_SECONDS = 1.0
# So that nothing waits for ever behind a lock that somebody forgot; each becomes a 503.
_TIME_LIMITS = (
    "-c statement_timeout=15s -c lock_timeout=12s -c idle_in_transaction_session_timeout=10s"
)
_READERS = 2  # connections for single statements, per process


class Base(DeclarativeBase):
    """The base of every table (``app.schema`` has them all).

    Constraints are named by rule, so that migrations can name them too.
    """

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy reads a plain class attribute)
        int: BigInteger,
        datetime: DateTime(timezone=True),
        UUID: Uuid,
        # A missing one is NULL, not the JSON value null.
        dict[str, Any]: JSONB(none_as_null=True),
        dict[str, str]: JSONB,
        list[dict[str, str]]: JSONB(none_as_null=True),
        list[dict[str, Any]]: JSONB(none_as_null=True),
    }


class Database:
    """A connection pool and the transactions on it."""

    def __init__(self, settings: Settings, schema: MetaData) -> None:
        """``schema`` is ``app.schema.metadata``: asked for, so that every table is declared."""
        self.schema = schema
        self.engine = _engine(settings, pool_size=settings.database_pool_size)
        # A pool of its own: a connection whose mode is changed at each use can break at the change.
        self._single = _engine(settings, pool_size=_READERS, isolation_level="AUTOCOMMIT")

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that commits at the end of the block, or rolls back whatever was raised.

        Raises DatabaseUnavailable when PostgreSQL cannot be reached or goes away half-way; the
        transaction then has no effect, unless it went away during the commit itself.
        """
        with (
            _unavailable(),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def statement(self) -> Iterator[Session]:
        """A session for one statement that changes nothing: a single round trip, without BEGIN and
        COMMIT around it. Raises DatabaseUnavailable.
        """
        with _unavailable(), Session(self._single, expire_on_commit=False) as session:
            yield session

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()
        self._single.dispose()


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise DatabaseUnavailable from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseUnavailable from error
        raise


def _as_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=_as_text)


def _as_text(value: Any) -> str:
    """UUIDs, moments and bytes, in the words that PostgreSQL reads them in."""
    return f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)


def psycopg2_url(url: str) -> str:
    """The URL with the driver named: SQLAlchemy 2.1 takes psycopg 3 when none is."""
    parsed = make_url(url.replace("postgres://", "postgresql://", 1))
    return parsed.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)


def _engine(settings: Settings, **options: Any) -> Engine:
    engine = create_engine(
        psycopg2_url(settings.database_url),
        max_overflow=0,
        pool_timeout=10,
        json_serializer=_as_json,
        hide_parameters=True,  # what customers wrote stays out of messages and so out of logs
        connect_args={
            "connect_timeout": 3,
            "application_name": "gptqueue",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            "options": _TIME_LIMITS,
        },
        **options,
    )
    event.listen(engine, "handle_error", _shorten)
    event.listen(engine, "connect", _note_use)  # a new one needs no test
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", _test_if_idle)
    return engine


def _note_use(connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


def _test_if_idle(connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
    """A connection that lay idle may have ended: a restarted PostgreSQL shall cost nobody an error.

    SQLAlchemy's own pre-ping asks at every use, which is a round trip too many under load.
    """
    if time.monotonic() - record.info.get("used", 0.0) < FRESH_SECONDS:
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.rollback()
    except connection.Error as error:
        raise DisconnectionError from error  # the pool makes another


def _shorten(context: ExceptionContext) -> None:
    """Keep the first line of PostgreSQL's message, which ends up in logs: the lines after it quote
    the row or the statement, and with them what customers wrote.
    """
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None and error.args:
            error.args = (str(error.args[0]).split("\n", 1)[0], *error.args[1:])
