"""``gptqueue admin``: against the database and the broker, without an API."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, text

from app import cli
from app.config import Settings
from app.db import Database
from app.jobs import reconcile
from app.jobs.tables import Job
from app.queues import Broker, generate_queue
from tests.conftest import Customer
from tests.integration.conftest import Submit

Admin = Callable[..., tuple[int, str, str]]


@pytest.fixture
def admin(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Admin:
    """The command of an operator: exit code, output and errors."""
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    monkeypatch.setenv("GPTQUEUE_CATALOG_FILE", str(settings.catalog_file))

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["admin", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def read(answer: tuple[int, str, str]) -> Any:
    """The document of a command that went well."""
    assert answer[0] == 0, answer
    return json.loads(answer[1])


def status_of(database: Database, job_id: str) -> tuple[str, int]:
    """Status and attempt."""
    with database.transaction() as session:
        job = session.get_one(Job, UUID(job_id))
        return job.status, job.attempt


def is_clean(database: Database) -> bool:
    """Whether the books are."""
    with database.transaction() as session:
        return reconcile.everything(session) == []


def test_an_account_is_opened_listed_and_shown(admin: Admin, database: Database) -> None:
    opened = read(admin("accounts", "open", "Zoë & Söhne", "--credit", "1.5", "--json"))
    assert opened["key"].startswith("gq_")
    assert opened["webhook_secret"].startswith("whsec_")
    [listed] = read(admin("accounts", "list", "--json"))["data"]
    assert (listed["id"], listed["name"]) == (opened["account"], "Zoë & Söhne")
    assert (listed["available_micros"], listed["keys"]) == (1_500_000, 1)
    shown = read(admin("accounts", "show", opened["account"], "--json"))
    assert [key["name"] for key in shown["keys"]] == ["first"]
    code, output, _ = admin("accounts", "list")
    assert (code, "1.500000" in output, opened["account"] in output) == (0, True, True)
    code, output, _ = admin("accounts", "show", opened["account"])
    assert (code, "available  1.500000 USD" in output) == (0, True)
    code, output, _ = admin("accounts", "open", "Other")
    assert "The key is shown this once" in output
    assert is_clean(database)


def test_keys_are_issued_and_revoked(
    admin: Admin, customer: Customer, client_of: Callable[[Customer], FlaskClient]
) -> None:
    code, output, _ = admin("keys", "issue", str(customer.id), "--name", "ci")
    assert code == 0
    another = Customer(customer.id, output.strip(), customer.secret)
    assert client_of(another).get("/api/v1/jobs").status_code == 200
    public_id = another.key.split("_")[1]
    assert admin("keys", "revoke", public_id)[:2] == (0, f"revoked {public_id}\n")
    found = read(admin("keys", "list", str(customer.id), "--json"))["data"]
    assert [(key["name"], key["revoked"] is None) for key in found] == [
        ("test", True),
        ("ci", False),
    ]
    assert another.key not in admin("keys", "list", str(customer.id))[1]


def test_credit_is_granted_and_shown_exactly(
    admin: Admin, customer: Customer, database: Database
) -> None:
    code, output, _ = admin("credit", "grant", str(customer.id), "0.000001")
    assert (code, output.splitlines()[0]) == (0, "available  1.000001 USD")
    assert admin("credit", "show", str(customer.id))[1] == output
    assert read(admin("credit", "show", str(customer.id), "--json"))["held_micros"] == 0
    assert is_clean(database)


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["credit", "grant", "ID", "0"], 2, "credit of nothing"),
        (["credit", "grant", "ID", "1e9"], 2, "no amount in USD"),
        (["credit", "grant", "ID", "9223372036854"], 2, "more credit than an account can hold"),
        (["credit", "grant", str(uuid4()), "1"], 1, "no such account"),
        (["credit", "show", "me"], 2, "a valid UUID"),
        (["keys", "revoke", "nothing"], 1, "no such account or key"),
        (["keys", "list", str(uuid4())], 1, "no such account or key"),
        (["jobs", "show", str(uuid4())], 1, "no such job"),
        (["jobs", "requeue", str(uuid4())], 1, "no such job"),
        (["accounts", "open", "a\x00b"], 2, "NUL"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    admin: Admin, customer: Customer, words: list[str], code: int, reason: str
) -> None:
    found, output, errors = admin(*(str(customer.id) if word == "ID" else word for word in words))
    assert (found, output, errors.count("\n")) == (code, "", 1), errors
    assert reason in errors


def test_a_database_that_is_away_is_told(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/none")
    code, _, errors = admin("accounts", "list")
    assert (code, "does not answer" in errors) == (2, True)
    monkeypatch.setenv("GPTQUEUE_LEASE_SECONDS", "abc")
    assert "GPTQUEUE_LEASE_SECONDS is 'abc'" in admin("accounts", "list")[2]


def test_the_catalog_is_listed_with_queues_and_workers(
    admin: Admin, submit: Submit, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit()
    disabled, fake = read(admin("models", "list", "--json"))["data"]
    assert (disabled["name"], disabled["enabled"]) == ("disabled", False)
    assert (fake["queue"], fake["messages"], fake["queued"]) == ("generate.fake", 1, 1)
    assert fake["workers"] == {"ready": 1}
    line = admin("models", "list")[1].splitlines()[2]
    assert line.split() == ["fake", "1", "fake", "yes", "generate.fake", "1", "1", "1", "ready"]
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    assert read(admin("models", "list", "--json"))["data"][1]["messages"] is None


def test_jobs_of_all_accounts_are_listed_and_shown(
    admin: Admin, submit: Submit, customer: Customer
) -> None:
    first, second = (submit().get_json()["id"] for _ in range(2))
    found = read(admin("jobs", "list", "--json"))["data"]
    assert [job["id"] for job in found] == [second, first]
    assert read(admin("jobs", "list", "-n", "1", "--json"))["data"] == found[:1]
    assert read(admin("jobs", "list", "--account", str(uuid4()), "--json"))["data"] == []
    assert read(admin("jobs", "list", "--status", "failed", "--json"))["data"] == []
    shown = read(admin("jobs", "show", first, "--json"))
    assert (shown["account"], shown["status"]) == (str(customer.id), "queued")
    code, output, _ = admin("jobs", "show", first)
    assert (code, f"account   {customer.id}" in output, "held " in output) == (0, True, True)


def test_a_queued_job_gets_another_message(
    admin: Admin, submit: Submit, settings: Settings, database: Database
) -> None:
    job_id = submit().get_json()["id"]
    broker = Broker(settings)
    assert broker.depth(generate_queue("fake")) == 1
    assert admin("jobs", "requeue", job_id)[0] == 0
    assert broker.depth(generate_queue("fake")) == 2
    assert status_of(database, job_id) == ("queued", 0)


def claimed(database: Database, job_id: str, *, lease: str) -> None:
    """The job runs, with a lease that ends in that time."""
    with database.transaction() as session:
        session.execute(
            text(
                "UPDATE jobs SET status = 'running', worker = 'w', attempt = 1,"
                f" lease_until = now() + interval '{lease}' WHERE id = :id"
            ),
            {"id": job_id},
        )
        session.execute(
            text(
                "INSERT INTO attempts (job_id, number, account_id, worker, outcome)"
                " SELECT id, 1, account_id, 'w', 'running' FROM jobs WHERE id = :id"
            ),
            {"id": job_id},
        )


def test_a_running_job_whose_worker_is_gone_is_given_back_and_no_other(
    admin: Admin, submit: Submit, settings: Settings, database: Database
) -> None:
    alive, lost = (submit().get_json()["id"] for _ in range(2))
    claimed(database, alive, lease="1 minute")
    claimed(database, lost, lease="-1 second")
    code, output, _ = admin("jobs", "requeue", alive)
    assert (code, "in the hands of w, which is alive" in output) == (1, True)
    assert status_of(database, alive) == ("running", 1)
    assert read(admin("jobs", "requeue", lost, "--json"))["done"] is True
    assert status_of(database, lost) == ("queued", 1)
    assert Broker(settings).depth(generate_queue("fake")) == 3
    with database.transaction() as session:
        outcome = session.scalar(text("SELECT outcome FROM attempts WHERE ended_at IS NOT NULL"))
    assert outcome == "lost"


def test_a_job_that_was_lost_too_often_ends(
    admin: Admin, submit: Submit, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTQUEUE_MAX_ATTEMPTS", "1")
    job_id = submit().get_json()["id"]
    claimed(database, job_id, lease="-1 second")
    assert admin("jobs", "requeue", job_id)[:2] == (
        0,
        f"{job_id} has ended: it was cancelled, or its attempts are used up.\n",
    )
    assert status_of(database, job_id) == ("failed", 1)
    code, output, _ = admin("jobs", "requeue", job_id)
    assert (code, output) == (1, f"{job_id} has ended: failed.\n")
    assert is_clean(database)


def test_a_message_that_cannot_be_sent_is_told(
    admin: Admin, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit().get_json()["id"]
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    code, _, errors = admin("jobs", "requeue", job_id)
    assert (code, "broker of REDIS_URL does not answer" in errors) == (2, True)


def test_purge_asks_and_then_cancels_what_waits_with_its_holds(
    admin: Admin, submit: Submit, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [submit().get_json()["id"] for _ in range(5)]
    claimed(database, ids[0], lease="1 minute")
    questions: list[str] = []

    def answer(yes: bool) -> Callable[..., bool]:
        return lambda question, **_: questions.append(question) or yes

    monkeypatch.setattr("typer.confirm", answer(False))
    assert admin("jobs", "purge", "fake")[:2] == (1, "Nothing was cancelled.\n")
    assert questions == ["Cancel 4 queued jobs of fake?"]
    monkeypatch.setattr("typer.confirm", answer(True))
    assert admin("jobs", "purge", "fake")[:2] == (
        0,
        "4 jobs cancelled; their holds are released.\n",
    )
    assert [status_of(database, each)[0] for each in ids] == ["running", *["cancelled"] * 4]
    with database.transaction() as session:
        states = session.execute(text("SELECT state, count(*) FROM charges GROUP BY 1 ORDER BY 1"))
        assert [tuple(row) for row in states] == [("held", 1), ("released", 4)]
    assert is_clean(database)
    assert read(admin("jobs", "purge", "fake", "--json")) == {"model": "fake", "cancelled": 0}


def test_purge_goes_on_group_by_group_and_leaves_other_models(
    admin: Admin, submit: Submit, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.cli.admin import repair

    groups: list[int] = []

    def counted(*arguments: Any, **how: Any) -> Any:
        ended = cancel_queued(*arguments, **how, limit=2)
        groups.append(len(ended or ()))
        return ended

    cancel_queued = repair.cancel_queued
    monkeypatch.setattr(repair, "cancel_queued", counted)
    ids = [submit().get_json()["id"] for _ in range(5)]
    with database.transaction() as session:
        session.execute(text("UPDATE jobs SET model = 'other' WHERE id = :id"), {"id": ids[0]})
    assert read(admin("jobs", "purge", "fake", "--yes", "--json"))["cancelled"] == 4
    assert groups == [2, 2, 0]
    with database.transaction() as session:
        assert session.scalar(select(Job.status).where(Job.id == ids[0])) == "queued"


def test_a_question_that_nobody_answers_cancels_nothing(
    admin: Admin, submit: Submit, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit().get_json()["id"]

    def nobody(*_: object, **__: object) -> bool:
        raise EOFError

    monkeypatch.setattr("typer.confirm", nobody)
    code, _, errors = admin("jobs", "purge", "fake")
    assert (code, "--yes answers it" in errors) == (2, True)
    assert status_of(database, job_id) == ("queued", 0)
