"""The ledger only grows: what was written about money is not changed by anyone."""

from contextlib import suppress
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.billing.tables import Transfer
from app.db import Database
from app.jobs import reconcile
from tests import books
from tests.conftest import Customer
from tests.integration.conftest import Submit


@pytest.fixture(autouse=True)
def one_job(submit: Submit) -> None:
    """A grant and a hold are in the ledger."""
    assert submit().status_code == 202


@pytest.fixture
def written(database: Database) -> list[tuple[str, int]]:
    """The ledger."""
    return read(database)


def read(database: Database) -> list[tuple[str, int]]:
    with database.transaction() as session:
        rows = session.query(Transfer).order_by(Transfer.id)
        return [(row.kind, row.amount_micros) for row in rows]


CHANGES = [
    "UPDATE transfers SET amount_micros = 0",
    "UPDATE transfers SET kind = 'grant' WHERE kind = 'hold'",
    "UPDATE transfers SET amount_micros = 0 WHERE false",
    "DELETE FROM transfers",
    "DELETE FROM transfers WHERE kind = 'grant'",
    "TRUNCATE transfers",
]


@pytest.mark.parametrize("statement", CHANGES)
def test_the_application_lacks_the_privilege_to_change_the_ledger(
    database: Database, written: list[tuple[str, int]], statement: str
) -> None:
    assert [kind for kind, _ in written] == ["grant", "hold"]
    with (
        pytest.raises(DBAPIError, match="permission denied for table transfers"),
        database.transaction() as session,
    ):
        session.execute(text("DROP TRIGGER append_only ON transfers"))
        session.execute(text(statement))
    assert read(database) == written


@pytest.mark.parametrize("statement", CHANGES)
def test_the_ledger_refuses_to_be_changed_by_those_who_have_the_privilege(
    database: Database, written: list[tuple[str, int]], statement: str
) -> None:
    with (
        pytest.raises(DBAPIError, match="the ledger is append-only"),
        database.transaction() as session,
    ):
        session.execute(text("GRANT UPDATE, DELETE, TRUNCATE ON transfers TO CURRENT_USER"))
        session.execute(text(statement))
    assert read(database) == written


def test_the_application_is_no_superuser_who_could_do_anything(database: Database) -> None:
    query = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
    with database.transaction() as session:
        assert session.scalar(text(query)) is False


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ("'grant', 'funding', 'available', -1", "not_negative"),
        ("'grant', 'available', 'available', 1", "two_books"),
    ],
)
def test_the_ledger_takes_no_movement_that_does_not_sum_to_zero(
    database: Database, customer: Customer, values: str, constraint: str
) -> None:
    columns = "account_id, kind, debit, credit, amount_micros"
    insert = f"INSERT INTO transfers ({columns}) SELECT :account, {values}"
    with pytest.raises(IntegrityError, match=constraint), database.transaction() as session:
        session.execute(text(insert), {"account": customer.id})


@pytest.mark.parametrize("kind", ["hold", "charge", "release"])
def test_a_job_is_held_charged_and_released_at_most_once(
    database: Database, client: FlaskClient, kind: str
) -> None:
    job_id = client.get("/api/v1/jobs").get_json()["data"][0]["id"]
    client.post(f"/api/v1/jobs/{job_id}/cancel")
    insert = text(
        "INSERT INTO transfers (account_id, job_id, kind, debit, credit, amount_micros) "
        "SELECT account_id, job_id, :kind, debit, credit, 0 FROM transfers WHERE kind = 'hold'"
    )
    with pytest.raises(IntegrityError, match="job_id_kind"):
        for _ in range(2):
            with database.transaction() as session:
                session.execute(insert, {"kind": kind})


def test_a_balance_cannot_fall_below_zero(database: Database, customer: Customer) -> None:
    for column in ("available", "held"):
        statement = text(f"UPDATE balances SET {column}_micros = -1 WHERE account_id = :account")
        with pytest.raises(IntegrityError, match=column), database.transaction() as session:
            session.execute(statement, {"account": customer.id})


SETTLE = """
    UPDATE charges SET state = 'released', settled_at = now();
    UPDATE jobs SET status = 'failed', finished_at = now();
    INSERT INTO transfers (account_id, job_id, kind, debit, credit, amount_micros)
        SELECT account_id, job_id, 'release', 'held', 'available', amount_micros
        FROM transfers WHERE kind = 'hold';
    UPDATE balances SET available_micros = available_micros + held_micros, held_micros = 0;
    INSERT INTO usage_days
        SELECT account_id, (now() AT TIME ZONE 'UTC')::date, 'fake', 'failed', 1, 0, 0, 0
        FROM balances;
"""
WRITE = "INSERT INTO transfers (account_id, job_id, kind, debit, credit, amount_micros) SELECT"


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        ("SELECT 1", []),
        (SETTLE, []),
        ("UPDATE balances SET available_micros = available_micros + 1", ["drift"]),
        ("UPDATE balances SET held_micros = 0", ["drift"]),
        ("UPDATE balances SET held_micros = 0, available_micros = 999999", ["drift"]),
        ("DELETE FROM balances", ["drift"]),
        (f"{WRITE} account_id, NULL, 'grant', 'funding', 'available', 5 FROM balances", ["drift"]),
        (
            f"{WRITE} account_id, NULL, 'grant', 'revenue', 'funding', 5 FROM balances",
            ["unbalanced"],
        ),
        (
            f"{WRITE} account_id, NULL, 'gift', 'funding', 'revenue', 5 FROM balances",
            ["unbalanced"],
        ),
        (
            f"{WRITE} account_id, job_id, 'charge', 'held', 'revenue', 0 FROM charges",
            ["mismatch"],
        ),
        ("UPDATE charges SET held_micros = held_micros + 1", ["mismatch"]),
        (
            "UPDATE charges SET state = 'released', settled_at = now()",
            ["closed_early", "mismatch"],
        ),
        ("UPDATE jobs SET finished_at = now(), status = 'failed'", ["outlived"]),
        ("DELETE FROM charges", ["no_charge"]),
        (
            SETTLE + "UPDATE jobs SET prompt_tokens = 0, completion_tokens = 0",
            ["price"],
        ),
        (SETTLE + "DELETE FROM usage_days", ["usage"]),
        (SETTLE + "UPDATE usage_days SET requests = 2", ["usage"]),
        (SETTLE + "UPDATE usage_days SET charged_micros = 1", ["usage"]),
        (SETTLE + "UPDATE usage_days SET prompt_tokens = 1", ["usage"]),
        (SETTLE + "UPDATE usage_days SET completion_tokens = 1", ["usage"]),
        (SETTLE + "UPDATE usage_days SET day = day - 40", ["usage"]),
        (SETTLE + "UPDATE usage_days SET status = 'expired'", ["usage"]),
        ("DELETE FROM charges; DELETE FROM prompts; DELETE FROM jobs", ["no_job"]),
        ("DELETE FROM prompts; DELETE FROM jobs", ["no_job"]),
    ],
)
def test_books_that_are_wrong_are_seen_to_be_wrong(
    database: Database,
    customer: Customer,
    change: str,
    faults: list[str],
) -> None:
    with database.transaction() as session:
        assert reconcile.everything(session) == []
    with suppress(Undo), database.transaction() as session:
        session.execute(text(change))
        found = reconcile.money(session)
        assert sorted(each.fault for each in found) == faults
        assert {each.account_id for each in found} <= {customer.id}
        assert reconcile.money(session, [customer.id]) == found
        assert reconcile.money(session, [uuid4()]) == []
        raise Undo


class Undo(Exception):
    """The damage has been seen."""


def test_tries_that_are_not_counted_are_seen(database: Database, customer: Customer) -> None:
    """The other tests trust ``tests/books.py``."""
    with suppress(Undo), database.transaction() as session:
        assert books.wrong(session, [customer.id]) == []
        session.execute(text("UPDATE jobs SET attempt = 1"))
        ((found, _),) = books.wrong(session, [customer.id])
        assert found == "its tries are not counted"
        raise Undo
