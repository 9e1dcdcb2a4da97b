"""Calls that come together are done together, and each caller gets what is its own."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from app.errors import DatabaseUnavailable
from app.group import Group

PATIENCE_SECONDS = 10


class Doubling:
    """Doubles numbers, all but one where it is ``broken``, the first of them when the gate is open;
    remembers which came together, and who did them.
    """

    def __init__(
        self,
        *,
        limit: int = 64,
        broken: tuple[int, Exception] | None = None,
        gather: bool = False,
    ) -> None:
        self.group: Group[int, int] = Group(self._run, limit, gather=gather)
        self.gate, self.later_gate = threading.Event(), threading.Event()
        self.later_gate.set()
        self.began = threading.Semaphore(0)
        self.together: list[list[int]] = []
        self.leaders: list[str] = []
        self._broken = broken

    def _run(self, items: Sequence[int]) -> list[int]:
        gate = self.later_gate if self.together else self.gate
        self.together.append(list(items))
        self.leaders.append(threading.current_thread().name)
        self.began.release()
        assert gate.wait(PATIENCE_SECONDS)
        if self._broken is not None and self._broken[0] in items:
            raise self._broken[1]
        return [item * 2 for item in items]

    def do(self, item: int) -> tuple[int, str]:
        """The answer, and the name of the thread that asked for it."""
        return self.group.do(item), threading.current_thread().name

    def wait_for_waiting(self, number: int) -> None:
        """Until that many callers wait for the group before theirs."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.group._waiting) < number:
            assert time.monotonic() < deadline
            time.sleep(0.001)


Asked = Future[tuple[int, str]]


def ask(doubling: Doubling, item: int) -> Asked:
    """Ask in a thread that holds up nobody if it is never answered."""
    asked: Asked = Future()

    def run() -> None:
        try:
            asked.set_result(doubling.do(item))
        except Exception as error:
            asked.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return asked


@contextmanager
def behind_the_gate(doubling: Doubling, items: Sequence[int]) -> Iterator[list[Asked]]:
    """Zero is being done; these items came meanwhile, in their order. What was asked, zero first;
    the gate opens at the end of the block.
    """
    asked = [ask(doubling, 0)]
    assert doubling.began.acquire(timeout=PATIENCE_SECONDS)
    for number, item in enumerate(items, start=1):
        asked.append(ask(doubling, item))
        doubling.wait_for_waiting(number)
    yield asked
    doubling.gate.set()
    assert not wait(asked, PATIENCE_SECONDS).not_done


def test_calls_that_come_together_are_run_together_and_each_gets_its_own_answer() -> None:
    doubling = Doubling()
    with behind_the_gate(doubling, range(1, 21)) as asked:
        pass
    assert [each.result()[0] for each in asked] == [item * 2 for item in range(21)]
    assert doubling.together == [[0], [*range(1, 21)]]


def test_a_call_that_comes_alone_is_run_at_once_by_its_caller() -> None:
    doubling = Doubling()
    doubling.gate.set()
    assert [doubling.group.do(1), doubling.group.do(2)] == [2, 4]
    assert doubling.together == [[1], [2]]
    assert set(doubling.leaders) == {threading.current_thread().name}


def test_no_more_are_run_together_than_the_limit() -> None:
    doubling = Doubling(limit=2)
    with behind_the_gate(doubling, range(1, 6)) as asked:
        pass
    assert [each.result()[0] for each in asked] == [0, 2, 4, 6, 8, 10]
    assert doubling.together == [[0], [1, 2], [3, 4], [5]]


def test_a_waiting_caller_leads_the_next_group() -> None:
    doubling = Doubling()
    with behind_the_gate(doubling, [1, 2]) as asked:
        pass
    (_, first), (_, second), (_, third) = [each.result() for each in asked]
    leader, next_leader = doubling.leaders
    assert leader == first
    assert next_leader in {second, third}


def test_a_caller_is_answered_before_the_next_group_is_done() -> None:
    doubling = Doubling()
    doubling.later_gate.clear()
    with behind_the_gate(doubling, [1]) as asked:
        doubling.gate.set()
        assert asked[0].result(PATIENCE_SECONDS)[0] == 0
        assert not asked[1].done()
        doubling.later_gate.set()
    assert asked[1].result()[0] == 2


def test_what_nobody_expected_fails_only_the_item_whose_fault_it_is() -> None:
    doubling = Doubling(broken=(3, RuntimeError("I cannot do 3")))
    with behind_the_gate(doubling, [1, 2, 3, 4]) as asked:
        pass
    assert [asked[item].result()[0] for item in (0, 1, 2, 4)] == [0, 2, 4, 8]
    with pytest.raises(RuntimeError, match="cannot do 3"):
        asked[3].result()
    assert doubling.together == [[0], [1, 2, 3, 4], [1], [2], [3], [4]]
    assert doubling.group.do(5) == 10


def test_a_condition_of_ours_fails_the_whole_group_and_nothing_is_tried_twice() -> None:
    doubling = Doubling(broken=(3, DatabaseUnavailable()))
    with behind_the_gate(doubling, [1, 2, 3, 4]) as asked:
        pass
    assert asked[0].result()[0] == 0
    assert [type(each.exception()) for each in asked[1:]] == [DatabaseUnavailable] * 4
    assert doubling.together == [[0], [1, 2, 3, 4]]
    assert doubling.group.do(5) == 10


def test_an_error_that_is_given_as_an_answer_is_raised_for_its_item_alone() -> None:
    group: Group[int, int] = Group(lambda items: [ValueError("odd") if i % 2 else i for i in items])
    assert group.do(2) == 2
    with pytest.raises(ValueError, match="odd"):
        group.do(3)
    assert group.do(4) == 4


def test_a_caller_is_not_told_yes_when_its_leader_is_stopped() -> None:
    gate, began = threading.Event(), threading.Event()

    def run(items: Any) -> Any:
        if items[0] == 0:
            began.set()
            assert gate.wait(10)
            return items
        raise SystemExit  # or a GreenletExit, or gevent's Timeout

    group: Group[int, int] = Group(run)
    answers: list[Any] = []

    def ask(item: int) -> None:
        try:
            answers.append((item, group.do(item)))
        except BaseException as error:
            answers.append((item, type(error)))

    threads = []
    for item in (0, 1, 2):
        threads.append(threading.Thread(target=ask, args=(item,), daemon=True))
        threads[-1].start()
        if item == 0:
            assert began.wait(10)
        while len(group._waiting) < item:
            time.sleep(0.001)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert dict(answers)[2] is RuntimeError


def test_a_caller_gives_up_on_a_leader_that_never_ends_and_harms_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.group.PATIENCE_SECONDS", 0.2)
    doubling = Doubling()
    leader = threading.Thread(target=doubling.group.do, args=(1,))
    leader.start()
    assert doubling.began.acquire(timeout=PATIENCE_SECONDS)
    with pytest.raises(DatabaseUnavailable):
        doubling.group.do(2)
    doubling.gate.set()
    leader.join()
    assert doubling.group.do(3) == 6
    assert doubling.together == [[1], [3]]


def test_heavy_items_make_small_groups() -> None:
    together: list[list[int]] = []
    gate, began = threading.Event(), threading.Event()

    def run(items: Sequence[int]) -> Sequence[int]:
        began.set()
        assert gate.wait(PATIENCE_SECONDS)
        together.append(list(items))
        return items

    group: Group[int, int] = Group(run, limit=10, weigh=lambda item: item)
    threads = []
    for item in (1, 6, 5, 4, 30, 2):
        threads.append(threading.Thread(target=group.do, args=(item,)))
        threads[-1].start()
        assert began.wait(PATIENCE_SECONDS)
        while item != 1 and item not in [call.item for call in list(group._waiting)]:
            time.sleep(0.001)
    gate.set()
    for thread in threads:
        thread.join()
    assert together == [[1], [6], [5, 4], [30], [2]]


def test_after_a_crowd_a_group_waits_as_long_as_each_moment_brings_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    doubling = Doubling(gather=True)
    with behind_the_gate(doubling, [1, 2]):
        pass
    later = iter([[4, 5], [6], []])
    asked: list[Asked] = []

    def moment(seconds: float) -> None:
        for waiting, item in enumerate(next(later), start=len(asked) + 2):
            asked.append(ask(doubling, item))
            doubling.wait_for_waiting(waiting)

    monkeypatch.setattr("app.group.time", SimpleNamespace(sleep=moment))
    assert doubling.group.do(3) == 6
    assert [each.result(PATIENCE_SECONDS)[0] for each in asked] == [8, 10, 12]
    assert doubling.together == [[0], [1, 2], [3, 4, 5, 6]]


def test_without_a_crowd_before_it_nobody_waits_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.group.time", None)
    doubling = Doubling(gather=True)
    doubling.gate.set()
    assert [doubling.group.do(1), doubling.group.do(2)] == [2, 4]
