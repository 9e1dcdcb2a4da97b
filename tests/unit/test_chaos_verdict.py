"""The audit of scripts/chaos: a verdict that nothing could spoil would say nothing."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace as Row
from uuid import uuid4

import pytest

from app.billing.reconcile import Fault, Finding
from scripts.breaking import audit
from scripts.breaking.answers import Answer, Answers
from scripts.breaking.books import Books
from scripts.breaking.downtime import Downtime
from scripts.breaking.plans import Plans
from scripts.breaking.receiver import Arrival, Receiver

JOB, ACCOUNT, HEX = "job-1", "account-1", "abc"
PLANS = Plans(1, "http://127.0.0.1:1/")
KEYED = next(number for number in range(100) if PLANS.draw(number).key)


class World:
    """One succeeded job, as everyone should have seen it; 3 tokens read, 10 written."""

    def __init__(self, receiver: Receiver) -> None:
        self.job = Row(
            id=JOB,
            account=ACCOUNT,
            status="succeeded",
            plan=str(KEYED),
            webhook_url="http://127.0.0.1:1/0",
            prompt_tokens=3,
            completion_tokens=10,
            state="charged",
            held_micros=40,
            charged_micros=24,  # 3 * 1 + 10 * 2.1
            input_price_micros=1_000_000,
            output_price_micros=2_100_000,
        )
        self.delivery = Row(
            hex=HEX, job=JOB, type="job.succeeded", state="delivered", attempts=1, is_overdue=False
        )
        self.books = Books(
            jobs={JOB: self.job},
            attempts=[Row(job=JOB, number=1, outcome="succeeded")],
            transfers=[
                transfer(None, "grant", "funding", "available", 100),
                transfer(JOB, "hold", "available", "held", 40),
                transfer(JOB, "charge", "held", "revenue", 24),
                transfer(JOB, "release", "held", "available", 16),
            ],
            balances=[Row(held=0)],
            deliveries=[self.delivery],
            keys=[Row(account=ACCOUNT, key=f"plan-{KEYED}", job=JOB)],
            findings=[],
        )
        self.answers = Answers()
        self.answers.accept(KEYED, {"id": JOB, "status": "queued"})
        self.receiver = receiver
        self.receiver.arrivals[f"msg_{HEX}"] = [Arrival(JOB, "succeeded", 204)]

    def wrong(self) -> set[str]:
        """The lines of the verdict that have problems."""
        lines = audit.lines(self.books, self.answers, PLANS, receiver=self.receiver)
        return {line.name for line in lines if line.problems}


def transfer(job: str | None, kind: str, debit: str, credit: str, amount: int) -> Row:
    return Row(
        job=job, account=ACCOUNT, kind=kind, debit=debit, credit=credit, amount_micros=amount
    )


@pytest.fixture
def world() -> Iterator[World]:
    with Receiver(1) as receiver:
        yield World(receiver)


def test_a_job_that_everyone_agrees_on_is_clean(world: World) -> None:
    assert world.wrong() == set()


def forget_the_job(world: World) -> None:
    world.books.jobs.clear()
    world.books.attempts.clear()


def leave_it_queued(world: World) -> None:
    world.job.status = "queued"


def store_it_twice(world: World) -> None:
    world.books.jobs["job-2"] = Row(**{**vars(world.job), "id": "job-2", "webhook_url": None})


def answer_with_two_ids(world: World) -> None:
    world.answers.accept(KEYED, {"id": "job-2", "status": "queued"})


def forget_its_key(world: World) -> None:
    world.books.keys.clear()


def let_two_attempts_succeed(world: World) -> None:
    world.books.attempts.append(Row(job=JOB, number=2, outcome="succeeded"))


def charge_twice(world: World) -> None:
    world.books.transfers.append(transfer(JOB, "charge", "held", "revenue", 24))


def charge_a_micro_too_much(world: World) -> None:
    world.job.charged_micros = 25


def charge_for_a_failure(world: World) -> None:
    world.job.status = "failed"


def lose_credit(world: World) -> None:
    world.books.findings.append(Finding(Fault.DRIFT, uuid4(), None, 1))


def keep_the_hold(world: World) -> None:
    world.books.transfers[-1] = transfer(JOB, "nothing", "revenue", "revenue", 0)


def record_two_webhooks(world: World) -> None:
    world.books.deliveries.append(world.delivery)


def say_delivered_when_it_was_not(world: World) -> None:
    world.receiver.arrivals.clear()


def leave_the_webhook(world: World) -> None:
    world.delivery.state, world.delivery.is_overdue = "pending", True


def give_up_early(world: World) -> None:
    world.delivery.state = "abandoned"


def forge_a_webhook(world: World) -> None:
    world.receiver.forged = 1


def show_another_end(world: World) -> None:
    world.answers.see({"id": JOB, "status": "cancelled"})


def refuse_it(world: World) -> None:
    world.answers.refuse(KEYED)


def store_what_was_never_accepted(world: World) -> None:
    world.answers.accepted.clear()


def complain(world: World) -> None:
    world.answers.complain("GET jobs", Answer(500))


@pytest.mark.parametrize(
    ("spoil", "lines"),
    [
        (forget_the_job, {"lost", "charged", "deliveries"}),
        (leave_it_queued, {"lost", "charged", "deliveries", "duplicated", "changed"}),
        (store_it_twice, {"duplicated", "charged", "accepted"}),
        (answer_with_two_ids, {"duplicated", "lost"}),
        (forget_its_key, {"duplicated"}),
        (let_two_attempts_succeed, {"duplicated"}),
        (charge_twice, {"charged"}),
        (charge_a_micro_too_much, {"charged"}),
        (charge_for_a_failure, {"charged", "deliveries", "duplicated", "changed"}),
        (lose_credit, {"drift"}),
        (keep_the_hold, {"charged"}),
        (record_two_webhooks, {"deliveries"}),
        (say_delivered_when_it_was_not, {"deliveries"}),
        (leave_the_webhook, {"deliveries"}),
        (give_up_early, {"deliveries"}),
        (forge_a_webhook, {"deliveries"}),
        (show_another_end, {"changed"}),
        (refuse_it, {"accepted"}),
        (store_what_was_never_accepted, {"accepted"}),
        (complain, {"unexpected"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_each_broken_promise_spoils_its_lines(
    world: World, spoil: Callable[[World], None], lines: set[str]
) -> None:
    spoil(world)
    assert world.wrong() == lines


@pytest.mark.parametrize(
    ("answer", "sound"),
    [
        (Answer(202), True),
        (Answer(402), True),
        (Answer(503, "", "application/problem+json", "5"), True),
        (Answer(503, "", "application/problem+json"), False),
        (Answer(503, "", "text/html", "5"), False),
        (Answer(404), False),
        (Answer(500), False),
        (Answer(200, "Traceback (most recent call last)"), False),
    ],
)
def test_a_customer_has_to_expect_a_yes_no_credit_or_later(answer: Answer, sound: bool) -> None:
    assert answer.sound is sound


def test_only_a_kill_explains_a_broken_connection() -> None:
    away = Downtime()
    assert not away.explains(sent_at=0)
    with away.beginning():
        away.answered(sent_at=float("inf"))  # by the dying API, perhaps
    assert away.explains(sent_at=float("inf"))
    away.answered(sent_at=float("inf"))
    assert away.explains(sent_at=0)
    assert not away.explains(sent_at=float("inf"))
