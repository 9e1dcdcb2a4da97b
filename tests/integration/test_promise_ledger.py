"""The ledger only grows: what was written about money is not changed by anyone."""

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.billing.tables import Transfer
from app.db import Database
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


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transfers SET amount_micros = 0",
        "UPDATE transfers SET kind = 'grant' WHERE kind = 'hold'",
        "UPDATE transfers SET amount_micros = 0 WHERE false",
        "DELETE FROM transfers",
        "DELETE FROM transfers WHERE kind = 'grant'",
        "TRUNCATE transfers",
    ],
)
def test_the_ledger_refuses_to_be_changed(
    database: Database, written: list[tuple[str, int]], statement: str
) -> None:
    assert [kind for kind, _ in written] == ["grant", "hold"]
    with (
        pytest.raises(DBAPIError, match="the ledger is append-only"),
        database.transaction() as session,
    ):
        session.execute(text(statement))
    assert read(database) == written


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


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("UPDATE balances SET available_micros = available_micros + 1", "the balance is not"),
        ("UPDATE balances SET held_micros = 0", "the balance is not"),
        ("UPDATE charges SET held_micros = held_micros + 1", "it was not held exactly once"),
        (
            "UPDATE charges SET state = 'released', settled_at = now()",
            "its hold does not live as it does",
        ),
        (
            "UPDATE jobs SET finished_at = now(), status = 'failed'",
            "its hold does not live as it does",
        ),
        ("UPDATE jobs SET attempt = 1", "its tries are not counted"),
        ("DELETE FROM charges; DELETE FROM prompts; DELETE FROM jobs", "money moved for a job"),
    ],
)
def test_books_that_are_wrong_are_seen_to_be_wrong(
    database: Database, customer: Customer, change: str, what: str
) -> None:
    """The other tests trust ``tests/books.py``."""
    with database.transaction() as session:
        assert books.wrong(session, [customer.id]) == []
        session.execute(text(change))
        ((found, _),) = books.wrong(session, [customer.id])
    assert found.startswith(what)
