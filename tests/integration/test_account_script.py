"""scripts/account as an operator runs it."""

import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from app.accounts.tables import Account
from app.billing.tables import Balance
from app.db import Database

ROOT = Path(__file__).resolve().parents[2]
MOST_CENTS = (2**63 - 1) // 10_000


def account(
    database_url: str, *arguments: str | bytes, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run it."""
    return subprocess.run(
        [sys.executable, "-m", "scripts.accounts", *arguments],
        env={**os.environ, "DATABASE_URL": database_url, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def opened(finished: subprocess.CompletedProcess[str]) -> UUID:
    """The id of the account that was opened."""
    assert finished.returncode == 0, finished.stderr
    return UUID(finished.stdout.split()[1])


def check_refused(finished: subprocess.CompletedProcess[str], code: int, reason: str) -> None:
    """One sentence, after argparse's usage if it is argparse that refuses."""
    assert finished.returncode == code, finished.stderr
    assert "Traceback" not in finished.stderr
    lines = finished.stderr.strip().splitlines()
    assert reason in lines[-1]
    assert len(lines) == 1 or lines[0].startswith("usage: ")
    assert finished.stdout == ""


def test_an_account_is_opened_with_credit_and_gets_more(
    database: Database, database_url: str
) -> None:
    account_id = opened(account(database_url, "open", "Zoë & Söhne", "--cents", "150"))
    assert account(database_url, "credit", str(account_id), "50").returncode == 0
    with database.transaction() as session:
        assert session.get_one(Account, account_id).name == "Zoë & Söhne"
        assert session.get_one(Balance, account_id).available_micros == 2_000_000


@pytest.mark.parametrize("cents", ["-5", "1.5", "99999999999999999999", str(MOST_CENTS + 1)])
def test_credit_that_no_account_can_hold_is_refused(database_url: str, cents: str) -> None:
    reason = f"must be a whole number from 0 to {MOST_CENTS}"
    check_refused(account(database_url, "open", "X", f"--cents={cents}"), 2, reason)
    reason = f"must be a whole number from 1 to {MOST_CENTS}"
    check_refused(account(database_url, "credit", str(uuid4()), cents), 2, reason)


def test_credit_of_nothing_is_refused(database_url: str) -> None:
    check_refused(account(database_url, "credit", str(uuid4()), "0"), 2, "a whole number from 1")


def test_credit_that_an_account_cannot_hold_on_top_is_refused(
    database: Database, database_url: str
) -> None:
    account_id = opened(account(database_url, "open", "X", "--cents", str(MOST_CENTS)))
    more = account(database_url, "credit", str(account_id), str(MOST_CENTS))
    check_refused(more, 1, "more credit than an account can hold")
    with database.transaction() as session:
        assert session.get_one(Balance, account_id).available_micros == MOST_CENTS * 10_000


def test_a_name_that_is_not_utf_8_is_refused(database_url: str) -> None:
    check_refused(account(database_url, "open", b"caf\xe9"), 2, "name: is not UTF-8")
    check_refused(account(database_url, "revoke", b"caf\xe9"), 2, "public_id: is not UTF-8")


def test_what_is_not_there_is_named(database_url: str) -> None:
    check_refused(account(database_url, "key", str(uuid4())), 1, "no such account or key")
    check_refused(account(database_url, "revoke", "nothing"), 1, "no such account or key")


def test_a_database_without_tables_is_told_with_the_way_to_make_them(empty_database: str) -> None:
    check_refused(account(empty_database, "open", "X"), 1, "alembic -c migrations/alembic.ini")


def test_what_is_no_database_is_told() -> None:
    check_refused(account("garbage", "open", "X"), 1, "DATABASE_URL is no address")
    dead = account("postgresql://127.0.0.1:1/nothing", "open", "X")
    check_refused(dead, 1, "does not answer")


def test_an_option_of_the_address_that_is_unknown_is_told(database_url: str) -> None:
    check_refused(account(f"{database_url}?what=1", "open", "X"), 1, "refuses: ")


def test_a_setting_that_does_not_fit_is_told(database_url: str) -> None:
    wrong = account(database_url, "open", "X", GPTQUEUE_LEASE_SECONDS="abc")
    check_refused(wrong, 1, "GPTQUEUE_LEASE_SECONDS is 'abc'")
