"""Jobs that were lost, and who may run beside them."""

from collections.abc import Callable

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from app.db import Database
from app.jobs.claim import Claimed, Served, claim
from app.jobs.handback import hand_back
from app.jobs.rescue import rescue
from tests.integration.conftest import Submit
from workers.engines.base import Generation
from workers.process import Process
from workers.suspects import Suspects

RUN_OUT = "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE status = 'running'"
URL = "http://here"
ONE: list[Served] = [("fake", "1")]
MANY: list[Served] = [*ONE, ("another", "1")]


def take(
    database: Database, served: list[Served] = ONE, *, suspects: bool = True
) -> list[tuple[str, int]]:
    """Claim all that may be claimed: ids, and how often each was lost."""
    with database.transaction() as session:
        found = claim(session, served, worker="w", lease_seconds=60, limit=9, suspects=suspects)
    return [(str(each.lease.job_id), each.losses) for each in found]


def lose_all(database: Database) -> None:
    """The worker of all jobs that run is lost."""
    with database.transaction() as session:
        session.execute(text(RUN_OUT))
        rescue(session, max_attempts=9, base_url=URL)


@pytest.fixture
def lost(submit: Submit, database: Database) -> str:
    """A job that waits, and was lost twice."""
    job_id = str(submit().get_json()["id"])
    for _ in range(2):
        take(database)
        lose_all(database)
    return job_id


@pytest.mark.parametrize("served", [ONE, MANY], ids=["one model", "several"])
def test_a_claim_without_suspects_passes_over_what_was_lost(
    submit: Submit, database: Database, lost: str, served: list[Served]
) -> None:
    new = str(submit().get_json()["id"])
    assert take(database, served, suspects=False) == [(new, 0)]
    assert take(database, served, suspects=False) == []
    assert take(database, served) == [(lost, 2)]


def test_what_was_handed_back_was_not_lost(submit: Submit, database: Database) -> None:
    job_id = str(submit().get_json()["id"])
    with database.transaction() as session:
        (held,) = claim(session, ONE, worker="w", lease_seconds=60, limit=1)
    with database.transaction() as session:
        hand_back(session, [held.lease], base_url=URL)
    assert take(database, suspects=False) == [(job_id, 0)]


Read = Callable[[str], tuple[str, str]]


@pytest.fixture
def read(client: FlaskClient) -> Read:
    """A job's status, and the outcome of its last attempt."""

    def look(job_id: str) -> tuple[str, str]:
        job = client.get(f"/api/v1/jobs/{job_id}").get_json()
        return job["status"], job["attempts"][-1]["outcome"]

    return look


def test_new_jobs_run_while_one_that_was_lost_waits_for_room(
    submit: Submit, process: Process, work: Callable[[], None], read: Read, lost: str
) -> None:
    suspects = process.servings["generate.fake"].suspects
    assert suspects.enter(2)  # another's last attempt
    new = str(submit().get_json()["id"])
    work()
    work()
    assert (read(new), read(lost)) == (("succeeded", "succeeded"), ("queued", "lost"))
    suspects.leave(2)
    work()
    assert read(lost) == ("succeeded", "succeeded")


def test_a_suspect_that_finds_no_room_goes_back_to_the_queue_and_is_called_when_there_is_some(
    process: Process,
    work: Callable[[], None],
    read: Read,
    lost: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suspects = process.servings["generate.fake"].suspects
    assert suspects.enter(2)
    with monkeypatch.context() as patch:  # the claim came a moment before the other entered
        patch.setattr(Suspects, "wanted", True)
        work()
    assert read(lost) == ("queued", "handed_back")
    work()
    assert read(lost) == ("queued", "handed_back")
    assert suspects.leave(2) == 1
    work()
    assert read(lost) == ("succeeded", "succeeded")


def test_a_suspect_that_leaves_sends_a_message_for_the_one_that_was_refused(
    process: Process,
    work: Callable[[], None],
    read: Read,
    lost: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serving = process.servings["generate.fake"]
    run, before = serving.run, process.broker.depth("generate.fake")

    def refuse_another(claimed: Claimed) -> Generation:
        assert not serving.suspects.enter(2)
        return run(claimed)

    monkeypatch.setattr(serving, "run", refuse_another)
    work()
    assert read(lost) == ("succeeded", "succeeded")
    assert process.broker.depth("generate.fake") == before + 1
