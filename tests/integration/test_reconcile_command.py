"""``gptqueue reconcile``: says what is wrong with the books, and exits with it."""

import json
import re

import pytest
from sqlalchemy import text

from app import cli
from app.billing.reconcile import Fault
from app.cli.admin.reconcile import WORDS
from app.db import Database
from tests.conftest import ROOT, Customer
from tests.integration.conftest import Submit


@pytest.fixture(autouse=True)
def one_job(submit: Submit, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Books to look at."""
    assert submit().status_code == 202
    monkeypatch.setenv("DATABASE_URL", database_url)


def damage(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE balances SET available_micros = available_micros + 7"))
        session.execute(text("UPDATE jobs SET finished_at = now(), status = 'failed'"))


def test_clean_books_are_said_to_be_clean(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reconcile"]) == 0
    assert capsys.readouterr().out.startswith("clean: ")
    assert cli.main(["reconcile", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"clean": True, "faults": {}, "findings": []}


def test_what_is_wrong_is_named_with_account_job_and_amount(
    database: Database, customer: Customer, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(database)
    assert cli.main(["reconcile"]) == 1
    said = capsys.readouterr().out
    assert "1 x drift: the balance is not what the transfers add up to" in said
    assert "1 x outlived: the hold outlived its job" in said
    assert f"drift: account {customer.id}, 7 micros" in said
    assert re.search(rf"outlived: account {customer.id} job [0-9a-f-]{{36}}, \d+ micros", said)


def test_as_json_it_is_one_line(
    database: Database, customer: Customer, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(database)
    assert cli.main(["reconcile", "--json"]) == 1
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    report = json.loads(said)
    assert (report["clean"], report["faults"]) == (False, {"drift": 1, "outlived": 1})
    drift = {"fault": "drift", "account_id": str(customer.id), "job_id": None, "micros": 7}
    assert drift in report["findings"]


@pytest.mark.parametrize("url", ["postgresql://127.0.0.1:1/none", "no address"])
def test_a_database_that_cannot_be_asked_is_neither_clean_nor_wrong(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    assert cli.main(["reconcile"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("gptqueue: ")
    assert said.err.count("\n") == 1


def test_every_fault_has_its_words() -> None:
    assert set(WORDS) == {fault.value for fault in Fault}


def test_the_package_installs_the_command() -> None:
    assert "gptqueue = app.cli:main" in (ROOT / "setup.cfg").read_text()
