"""Run migrations in one transaction, against DATABASE_URL."""

from alembic import context
from sqlalchemy import create_engine, pool

from app import config, schema
from app.db import psycopg2_url


def run() -> None:
    """Connect and migrate."""
    url = context.config.get_main_option("sqlalchemy.url") or config.current().database_url
    engine = create_engine(psycopg2_url(url), poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(
            connection=connection, target_metadata=schema.metadata, compare_server_default=True
        )
        with context.begin_transaction():
            context.run_migrations()


run()
