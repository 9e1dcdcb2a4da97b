"""The migrations, against real databases."""

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError

from app import schema
from app.db import Database, psycopg2_url
from app.webhooks.signing import public_key
from tests.conftest import Customer, alembic_config, migrate


def test_migrating_an_empty_database_gives_the_declared_tables(empty_database: str) -> None:
    migrate(empty_database, "head")
    engine = create_engine(psycopg2_url(empty_database))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []
        checks = {
            check["name"]
            for table in schema.metadata.tables
            for check in inspect(connection).get_check_constraints(table)
        }
    engine.dispose()
    declared = {
        constraint.name
        for table in schema.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint)
    }
    # compare_metadata does not look at CHECKs, and the state machine rests on them.
    assert checks == declared


def test_a_downgrade_leaves_nothing_behind_and_the_way_up_is_open_again(
    empty_database: str,
) -> None:
    migrate(empty_database, "head")
    migrate(empty_database, "base")
    engine = create_engine(psycopg2_url(empty_database))
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
        functions = text("SELECT count(*) FROM pg_proc WHERE proname = 'refuse_change'")
        assert connection.scalar(functions) == 0
    engine.dispose()
    migrate(empty_database, "head")


def test_every_step_back_undoes_its_step_and_nothing_else(empty_database: str) -> None:
    config = alembic_config(empty_database)
    walk = ScriptDirectory.from_config(config).walk_revisions()
    revisions = [each.revision for each in walk][::-1]
    shapes = []
    for revision in revisions:
        migrate(empty_database, revision)
        shapes.append(shape(empty_database))
    assert len(set(shapes)) == len(revisions)
    for revision, before in [*zip(revisions, shapes, strict=True)][-2::-1]:
        command.downgrade(config, revision)
        assert shape(empty_database) == before, revision


def shape(url: str) -> frozenset[tuple[str, ...]]:
    """Every column with its type, and every index."""
    engine = create_engine(psycopg2_url(url))
    with engine.connect() as connection:
        columns = connection.execute(
            text(
                "SELECT table_name, column_name, data_type, is_nullable FROM"
                " information_schema.columns WHERE table_schema = 'public'"
            )
        )
        indexes = connection.execute(
            text("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'")
        )
        found = frozenset(tuple(row) for rows in (columns, indexes) for row in rows)
    engine.dispose()
    return found


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE transfers SET amount_micros = 0",
        "DELETE FROM transfers",
        "TRUNCATE transfers",
    ],
)
def test_the_ledger_refuses_to_be_changed(
    database: Database, customer: Customer, change: str
) -> None:
    with (
        pytest.raises(DBAPIError, match="permission denied"),
        database.transaction() as session,
    ):
        session.execute(text(change))


def test_one_step_back_gives_the_privileges_back(empty_database: str) -> None:
    query = text(
        "SELECT string_agg(privilege_type, ' ' ORDER BY privilege_type)"
        " FROM information_schema.table_privileges WHERE table_name = 'transfers'"
        " AND grantee = current_user AND privilege_type IN ('UPDATE', 'DELETE', 'TRUNCATE')"
    )
    engine = create_engine(psycopg2_url(empty_database))
    migrate(empty_database, "head")
    with engine.connect() as connection:
        assert connection.scalar(query) is None
    command.downgrade(alembic_config(empty_database), "0001")
    with engine.connect() as connection:
        assert connection.scalar(query) == "DELETE TRUNCATE UPDATE"
    engine.dispose()


def test_accounts_from_before_get_a_key_pair_each(empty_database: str) -> None:
    migrate(empty_database, "0005")
    engine = create_engine(psycopg2_url(empty_database))
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO accounts (id, name)"
                " SELECT gen_random_uuid(), 'a' FROM generate_series(1, 3)"
            )
        )
        connection.execute(
            text(
                "INSERT INTO webhook_secrets (account_id, secret) SELECT id, 'whsec_' FROM accounts"
            )
        )
    migrate(empty_database, "0006")
    with engine.connect() as connection:
        keys = connection.scalars(text("SELECT private_key FROM webhook_secrets")).all()
    engine.dispose()
    assert len({public_key(key) for key in keys}) == 3


def test_a_step_back_leaves_one_delivery_of_each_job(empty_database: str) -> None:
    migrate(empty_database, "head")
    engine = create_engine(psycopg2_url(empty_database))
    delivery = (
        "INSERT INTO webhook_deliveries (id, account_id, job_id, subscription_id, type, url, host,"
        " body, state, attempts) SELECT gen_random_uuid(), id, {job}, {subscription}, 't', 'u',"
        " 'h', '', 'pending', 1 FROM accounts RETURNING id"
    )
    some = "gen_random_uuid()"
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO accounts (id, name) SELECT gen_random_uuid(), 'a'"))
        for job, subscription in [(some, some), ("NULL", some), (some, "NULL")]:
            query = delivery.format(job=job, subscription=subscription)
            last = connection.scalars(text(query)).one()
        connection.execute(
            text(
                "INSERT INTO webhook_attempts (delivery_id, number, account_id, started_at,"
                " duration_ms) SELECT id, 1, account_id, now(), 1 FROM webhook_deliveries"
            )
        )
    command.downgrade(alembic_config(empty_database), "0005")
    with engine.connect() as connection:
        left = connection.scalars(text("SELECT id FROM webhook_deliveries")).all()
    engine.dispose()
    assert left == [last]
