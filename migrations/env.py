"""Run migrations in one transaction, against DATABASE_URL."""

from alembic import context
from sqlalchemy import create_engine, pool

from app import config
from app.accounts import tables as accounts_tables
from app.billing import tables as billing_tables
from app.db import Base, psycopg2_url
from app.fleet import tables as fleet_tables
from app.jobs import tables as jobs_tables
from app.webhooks import tables as webhooks_tables

# Every table must have been declared before the metadata is complete.
DECLARED = (accounts_tables, billing_tables, fleet_tables, jobs_tables, webhooks_tables)


def run() -> None:
    """Connect and migrate."""
    url = context.config.get_main_option("sqlalchemy.url") or config.current().database_url
    engine = create_engine(psycopg2_url(url), poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(
            connection=connection, target_metadata=Base.metadata, compare_server_default=True
        )
        with context.begin_transaction():
            context.run_migrations()


run()
