"""What DATABASE_URL, REDIS_URL and the catalog name; whatever is wrong with it is a Problem."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from psycopg2 import errors
from pydantic import ValidationError
from redis.exceptions import RedisError
from sqlalchemy.exc import ArgumentError, DBAPIError, NoResultFound, SQLAlchemyError

from app import catalog, schema
from app.catalog import Catalog
from app.cli.problem import FAILED, Problem
from app.config import Settings
from app.db import Database
from app.errors import DatabaseUnavailable, JobNotFound


@contextmanager
def opened() -> Iterator[Database]:
    """The database for as long as the block lasts; its errors leave as Problem."""
    database = connect(read())
    try:
        with explained():
            yield database
    finally:
        database.close()


@contextmanager
def explained() -> Iterator[None]:
    """Errors of the database as one sentence each."""
    try:
        yield
    except DatabaseUnavailable as error:
        raise Problem(
            "the database of DATABASE_URL does not answer "
            "(for that of ./scripts/up: source .local/env)"
        ) from error
    except NoResultFound as error:
        raise Problem("there is no such account or key", FAILED) from error
    except JobNotFound as error:
        raise Problem("there is no such job", FAILED) from error
    except SQLAlchemyError as error:
        raise Problem(_reason(error)) from error


def read() -> Settings:
    """The settings of the environment; raises Problem that names the first wrong one."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = f"GPTQUEUE_{first['loc'][0]}".upper()
        raise Problem(f"{variable} is {first['input']!r}: {first['msg']}.") from error


def connect(known: Settings) -> Database:
    """The database, which is not asked anything yet; raises Problem for what is no address."""
    try:
        return Database(known, schema.metadata)
    except (ArgumentError, ValueError) as error:
        # Without the address itself: it may hold a password.
        raise Problem(
            "DATABASE_URL is no address of a database; one looks like "
            "postgresql://user:password@host:5432/name."
        ) from error


def served(known: Settings) -> Catalog:
    """The catalog; raises Problem for one that cannot be read."""
    try:
        return catalog.load(known.catalog_file)
    except ValueError as error:
        raise Problem(str(error)) from error


@contextmanager
def broker_explained() -> Iterator[None]:
    """Errors of the broker as one sentence."""
    try:
        yield
    except (RedisError, OSError, ValueError) as error:
        raise Problem("the broker of REDIS_URL does not answer") from error


def as_id(text: str) -> UUID:
    """An id; raises Problem for what is none."""
    try:
        return UUID(text)
    except ValueError:
        raise Problem(f"{text!r} is no id.") from None


def _reason(error: SQLAlchemyError) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, errors.UndefinedTable | errors.UndefinedColumn):
        return (
            "the database of DATABASE_URL lacks the tables of this version; make them with "
            "alembic -c migrations/alembic.ini upgrade head"
        )
    if isinstance(cause, errors.NumericValueOutOfRange):
        return "that is more credit than an account can hold"
    return f"the database of DATABASE_URL refuses: {cause}"
