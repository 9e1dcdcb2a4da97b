"""What every test may ask for: real servers of its own; nothing comes from the environment."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from alembic import command
from alembic.config import Config
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from sqlalchemy import Connection, NullPool, create_engine, make_url, text

from app import schema
from app.accounts import admin
from app.api import create_app
from app.config import Settings
from app.db import Database, psycopg2_url
from app.webhooks.secrets import read_secret
from scripts.stack import throwaway
from scripts.stack.postgres import SUPERUSER
from workers.generate import generate
from workers.process import Process, compose

ROOT = Path(__file__).resolve().parent.parent

# Started in the background of a script, we ignore SIGINT, and so would what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

for _name in list(os.environ):
    if _name.startswith("GPTQUEUE_") or _name in {"DATABASE_URL", "REDIS_URL", "SENTRY_DSN"}:
        del os.environ[_name]


def pytest_configure() -> None:
    """A terminated run ends like an interrupted one: the servers are stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL, made for this run; its user may create databases."""
    with throwaway.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A real, empty Valkey, made for this run."""
    with throwaway.valkey() as url:
        yield url


CATALOG = """
[models.fake]
enabled = true
context_length = 100
default_max_tokens = 20
input_price_micros = 1_000_000
output_price_micros = 2_000_000
version = "1"
[models.fake.versions.1]
source = "fake:"
engine = "fake"

[models.disabled]
context_length = 100
input_price_micros = 1
output_price_micros = 1
version = "1"
[models.disabled.versions.1]
source = "fake:"
engine = "fake"
"""
CREDIT_MICROS = 1_000_000


@pytest.fixture(scope="session")
def migrated(postgres_url: str) -> str:
    """A database that holds the schema, to be copied by each test that needs one."""
    name = "migrated"
    with _creator(postgres_url) as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    migrate(_renamed(postgres_url, name), "head")
    return name


def migrate(url: str, revision: str) -> None:
    """Bring a database to a revision, up or down."""
    config = alembic_config(url)
    if revision == "base":
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)


def alembic_config(url: str) -> Config:
    """Alembic's configuration for one database."""
    config = Config(str(ROOT / "migrations" / "alembic.ini"))
    config.set_main_option("sqlalchemy.url", url)
    return config


@pytest.fixture
def empty_database(postgres_url: str) -> Iterator[str]:
    """The URL of a database of this test's own, without tables."""
    yield from _database(postgres_url, "template1")


@pytest.fixture
def database_url(postgres_url: str, migrated: str) -> Iterator[str]:
    """The URL of a database of this test's own, with the schema."""
    yield from _database(postgres_url, migrated)


@pytest.fixture(scope="module")
def module_database_url(postgres_url: str, migrated: str) -> Iterator[str]:
    """The URL of a database with the schema, shared by the tests of one module."""
    yield from _database(postgres_url, migrated)


def _database(postgres_url: str, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    with _creator(postgres_url) as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield _renamed(postgres_url, name)
    # Only a superuser may end what else is connected, which can be an autovacuum worker.
    with _creator(_renamed(postgres_url, "postgres", username=SUPERUSER)) as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@contextmanager
def _creator(url: str) -> Iterator[Connection]:
    engine = create_engine(psycopg2_url(url), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


def _renamed(url: str, name: str, **more: str) -> str:
    return make_url(url).set(database=name, **more).render_as_string(hide_password=False)


@pytest.fixture
def redis_url(valkey_url: str) -> str:
    """The broker, emptied for this test."""
    with Redis.from_url(valkey_url) as redis:
        redis.flushall()
    return valkey_url


@pytest.fixture
def catalog_file(tmp_path: Path) -> Path:
    """A catalog whose one enabled model is the fake engine."""
    path = tmp_path / "catalog.toml"
    path.write_text(CATALOG)
    return path


@pytest.fixture
def settings(database_url: str, redis_url: str, catalog_file: Path, tmp_path: Path) -> Settings:
    """The settings of everything in a test."""
    return Settings(
        database_url=database_url,
        redis_url=redis_url,
        catalog_file=catalog_file,
        models_dir=tmp_path,
        database_pool_size=32,
        webhook_allowed_networks="127.0.0.0/8",
    )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The database that the test shares with the application."""
    database = Database(settings, schema.metadata)
    yield database
    database.close()


@dataclass(frozen=True)
class Customer:
    """An account with credit, and a key to it."""

    id: UUID
    key: str
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        """The header that proves who is asking."""
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture
def new_customer(database: Database) -> Callable[..., Customer]:
    """Open another account."""

    def open_one(credit_micros: int = CREDIT_MICROS) -> Customer:
        with database.transaction() as session:
            account = admin.open_account(session, name="test", credit_micros=credit_micros)
            key = admin.issue_key(session, account_id=account.id, name="test")
            return Customer(account.id, key, read_secret(session, account.id))

    return open_one


@pytest.fixture
def customer(new_customer: Callable[..., Customer]) -> Customer:
    """An account with a dollar of credit."""
    return new_customer()


@pytest.fixture
def api(settings: Settings) -> Iterator[Flask]:
    """The API, composed as in production."""
    app = create_app(settings)
    yield app
    app.extensions["gptqueue"].watchers.close()
    app.extensions["gptqueue"].database.close()


@pytest.fixture
def client_of(api: Flask) -> Callable[[Customer], FlaskClient]:
    """Make an HTTP client that sends a customer's key."""

    def make(customer: Customer) -> FlaskClient:
        client = api.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {customer.key}"
        return client

    return make


@pytest.fixture
def client(client_of: Callable[[Customer], FlaskClient], customer: Customer) -> FlaskClient:
    """An HTTP client that sends the customer's key."""
    return client_of(customer)


@pytest.fixture
def process(settings: Settings) -> Iterator[Process]:
    """A worker process that serves the fake model, without Celery around it."""
    process = compose(settings)
    process.serve(["generate.fake"], "worker-test")
    yield process
    process.stop()
    process.database.close()


@pytest.fixture
def work(process: Process) -> Callable[[], None]:
    """Do what one message makes a worker do."""
    return lambda: generate(process, process.servings["generate.fake"])
