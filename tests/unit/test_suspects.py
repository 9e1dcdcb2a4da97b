"""Who may run beside whom after an engine died."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from uuid import uuid4

import pytest

from app.jobs.transition import Lease
from workers.suspects import Suspects


def lease() -> Lease:
    return Lease(uuid4(), 2)


class Visitors:
    """Jobs in threads of their own, that stay until they are told to leave."""

    def __init__(self, suspects: Suspects) -> None:
        self._suspects = suspects
        self.inside: list[str] = []
        self._leave: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def come(self, name: str, *, losses: int, held: Lease | None = None) -> None:
        """Ask to be let in, and wait until it is seen whether that is so."""
        self._leave[name] = threading.Event()

        def visit() -> None:
            with self._suspects.among(held or lease(), losses=losses, seconds=60):
                self.inside.append(name)
                self._leave[name].wait(60)

        self._threads.append(threading.Thread(target=visit, daemon=True))
        self._threads[-1].start()
        time.sleep(0.05)

    def leave(self, name: str) -> None:
        """Be done."""
        self.inside.remove(name)
        self._leave[name].set()

    def await_inside(self, *names: str) -> None:
        """Wait until just these are inside."""
        give_up = time.monotonic() + 10
        while sorted(self.inside) != sorted(names):
            assert time.monotonic() < give_up, self.inside
            time.sleep(0.005)

    def close(self) -> None:
        """All leave."""
        for each in self._leave.values():
            each.set()
        for thread in self._threads:
            thread.join(10)


Open = Callable[..., Visitors]


@pytest.fixture
def visitors() -> Iterator[Open]:
    """Visitors of an engine of so many slots."""
    with ExitStack() as stack:

        @contextmanager
        def opened(slots: int, max_attempts: int) -> Iterator[Visitors]:
            made = Visitors(Suspects(slots=slots, max_attempts=max_attempts))
            yield made
            made.close()

        yield lambda slots, max_attempts=3: stack.enter_context(opened(slots, max_attempts))


@pytest.mark.parametrize(
    ("slots", "max_attempts", "losses", "together"),
    [(16, 3, 1, 4), (16, 3, 2, 1), (1, 3, 1, 1), (8, 2, 1, 1), (27, 4, 1, 9), (27, 4, 2, 3)],
)
def test_the_more_often_jobs_were_lost_the_fewer_of_them_run_together(
    visitors: Open, slots: int, max_attempts: int, losses: int, together: int
) -> None:
    made = visitors(slots, max_attempts)
    names = [str(number) for number in range(together + 2)]
    for name in names:
        made.come(name, losses=losses)
    made.await_inside(*names[:together])
    made.leave(names[0])
    made.await_inside(*names[1 : together + 1])


def test_new_jobs_run_whoever_else_does(visitors: Open) -> None:
    made = visitors(4)
    made.come("last chance", losses=2)
    for number in range(6):
        made.come(f"new {number}", losses=0)
    made.await_inside("last chance", *(f"new {number}" for number in range(6)))


def test_a_job_on_its_last_attempt_waits_for_the_others_and_nobody_overtakes_it(
    visitors: Open,
) -> None:
    made = visitors(16)
    made.come("first", losses=1)
    made.come("last chance", losses=2)
    made.come("late", losses=1)
    made.await_inside("first")
    made.leave("first")
    made.await_inside("last chance")
    made.leave("last chance")
    made.await_inside("late")


def test_a_job_that_is_to_end_waits_no_longer(visitors: Open) -> None:
    made = visitors(16)
    cancelled = lease()
    made.come("last chance", losses=2)
    made.come("cancelled", losses=2, held=cancelled)
    made.come("next", losses=2)
    made.await_inside("last chance")
    made._suspects.hurry(cancelled)
    made.await_inside("last chance", "cancelled")
    made.leave("last chance")
    made.leave("cancelled")
    made.await_inside("next")


def test_a_job_waits_no_longer_than_it_may() -> None:
    suspects = Suspects(slots=4, max_attempts=3)
    with suspects.among(lease(), losses=2, seconds=60):
        started = time.monotonic()
        with suspects.among(lease(), losses=2, seconds=0.05):
            assert time.monotonic() - started >= 0.05
