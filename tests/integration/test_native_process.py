"""The native engine around a real process whose loop has no model: what comes in and out."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from app.errors import (
    ContextLengthExceeded,
    EngineClosed,
    EngineFailed,
    EngineLost,
    ModelLoadFailed,
    UnknownArchitecture,
)
from tests.integration import standin
from tests.integration.conftest import Open
from tests.integration.standin import HANGS, KILLS, LEAVES, RAISES, STARVES
from workers.engines.base import Delta, FinishReason, Generation, Message, Request, Sampling
from workers.engines.native.engine import NativeEngine
from workers.engines.native.restarts import Patience

LONG = 100_000  # tokens: an answer that does not end by itself


@pytest.fixture
def endless(open_engine: Open) -> NativeEngine:
    """An engine whose answers may be of any length, and take their time."""
    return open_engine(kv_tokens=2 * LONG, step_seconds=0.005)


def ask(text: str, max_tokens: int = 5, **more: Any) -> Request:
    name = f"{text}/{more.pop('name', '')}{time.monotonic()}"
    return Request(id=name, prompt=text, max_tokens=max_tokens, **more)


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def pid_of(engine: NativeEngine) -> int:
    process = engine._keeper.process
    assert process is not None
    return process.pid


def error_of(future: "Future[Generation]") -> type[BaseException]:
    return type(future.exception(timeout=60))


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_many_threads_each_get_the_answer_to_their_own_prompt(open_engine: Open) -> None:
    engine = open_engine()

    def one(number: int) -> tuple[str, int, int, FinishReason]:
        answer = engine.submit(ask(f"<{number}>", 4 + number)).result(timeout=60)
        return (
            answer.text,
            answer.prompt_tokens,
            answer.completion_tokens,
            answer.finish_reason,
        )

    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(one, range(200)))
    for number, answer in enumerate(answers):
        prompt, length = f"<{number}>", 4 + number
        whole = prompt * length
        assert answer == (whole[:length], len(prompt), length, FinishReason.LENGTH)
    assert engine.stats().generated_tokens == sum(4 + number for number in range(200))
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)


def test_a_chat_goes_through_the_template(open_engine: Open) -> None:
    request = Request(id="chat", max_tokens=3, messages=[Message("user", "hey")])
    assert open_engine().submit(request).result(timeout=60).text == "hey"


def test_a_cancelled_request_keeps_its_text_and_is_charged(endless: NativeEngine) -> None:
    request = ask("ab", LONG)
    future = endless.submit(request)
    wait_for(lambda: endless.stats().generated_tokens > 0)
    endless.cancel("unknown")
    endless.cancel(request.id)
    answer = future.result(timeout=60)
    assert answer.finish_reason is FinishReason.CANCELLED
    assert answer.prompt_tokens == 2
    assert len(answer.text) == answer.completion_tokens > 0


def test_a_request_past_its_deadline_ends(endless: NativeEngine) -> None:
    late = endless.submit(ask("ab", LONG, deadline=time.monotonic() + 0.05))
    assert late.result(timeout=60).finish_reason is FinishReason.DEADLINE


def test_a_request_that_waits_for_a_slot_costs_nothing_when_it_is_cancelled(
    open_engine: Open,
) -> None:
    engine = open_engine(kv_tokens=2 * LONG, slots=1, step_seconds=0.005)
    engine.submit(ask("first", LONG))
    waiting = ask("second", LONG)
    future = engine.submit(waiting)
    engine.cancel(waiting.id)
    answer = future.result(timeout=60)
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("", 0, 0)


def test_a_stop_string_ends_the_text_before_it_and_the_engine_stops(endless: NativeEngine) -> None:
    future = endless.submit(ask("one, two; ", LONG, sampling=Sampling(stop=(" two;", "never"))))
    answer = future.result(timeout=60)
    assert (answer.text, answer.finish_reason) == ("one,", FinishReason.STOP)
    assert answer.completion_tokens == len("one, two;")
    wait_for(lambda: endless._stats.steps > 0 and endless._stats.running == 0)


def test_the_deltas_of_a_stream_are_its_text(open_engine: Open) -> None:
    published: list[Delta] = []
    engine = open_engine(publish=published.extend)
    requests = [ask(f"<{number}>", 50, stream=True) for number in range(10)]
    answers = [each.result(timeout=60) for each in [engine.submit(one) for one in requests]]
    for request, answer in zip(requests, answers, strict=True):
        mine = [delta for delta in published if delta.request_id == request.id]
        assert "".join(delta.text for delta in mine) == answer.text
        assert mine[-1].tokens == answer.completion_tokens


def test_a_stream_with_stop_strings_is_told_in_groups_and_never_beyond_them(
    open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.engines.native.answers.GROUP_SECONDS", 1000)
    published: list[Delta] = []
    engine = open_engine(publish=published.extend)
    prompt = "01234" * 7 + "END"
    sampling = Sampling(stop=("END", "never"))
    answer = engine.submit(ask(prompt, 500, stream=True, sampling=sampling)).result(timeout=60)
    assert (answer.text, answer.completion_tokens) == ("01234" * 7, 38)
    assert "".join(delta.text for delta in published) == answer.text
    assert [delta.tokens for delta in published] == [1, 9, 17, 25, 33, 38]


@pytest.mark.parametrize("waits", [False, True], ids=["one that runs", "one that waits"])
def test_a_request_is_streamed_from_the_beginning_once_somebody_asks(
    open_engine: Open, waits: bool
) -> None:
    published: list[Delta] = []
    engine = open_engine(publish=published.extend, step_seconds=0.002, kv_tokens=LONG)
    before = engine.submit(ask("xy", LONG // 2 if waits else 1))  # for which there is room alone
    request = ask("ab", 200)
    future = engine.submit(request)
    if not waits:
        before.result(timeout=60)
        wait_for(lambda: engine.stats().generated_tokens > 20)
    engine.stream("nobody")
    engine.stream(request.id)
    text = future.result(timeout=60).text
    assert "".join(delta.text for delta in published) == text
    assert {delta.request_id for delta in published} == {request.id}
    assert len(published) > 3


def test_a_publisher_that_fails_spoils_no_answer(open_engine: Open) -> None:
    def fail(deltas: object) -> None:
        raise RuntimeError

    engine = open_engine(publish=fail)
    assert engine.submit(ask("ab", 4, stream=True)).result(timeout=60).text == "abab"


def test_logprobs_come_with_the_texts_of_their_tokens(open_engine: Open) -> None:
    answer = open_engine().submit(ask("ab", 3, sampling=Sampling(logprobs=True))).result(timeout=60)
    assert answer.logprobs is not None
    assert [each.token for each in answer.logprobs] == ["a", "b", "a"]
    assert answer.logprobs[1].logprob == -98
    assert answer.logprobs[1].top == (
        ("b", -98),
        ("c", -99),
        ("d", -100),
        ("e", -101),
        ("f", -102),
    )


def test_what_can_never_fit_into_the_memory_is_refused(open_engine: Open) -> None:
    engine = open_engine(kv_tokens=100)
    assert engine.submit(ask("x" * 90, 10)).result(timeout=60).completion_tokens == 10
    refused = engine.submit(ask("x" * 90, 11)).exception(timeout=60)
    assert isinstance(refused, ContextLengthExceeded)
    assert "90 tokens and 11 more" in refused.message
    assert refused.details == {"prompt_tokens": 90, "context_length": 100}


def test_an_id_that_is_in_flight_is_refused(endless: NativeEngine) -> None:
    request = ask("ab", LONG)
    endless.submit(request)
    assert error_of(endless.submit(request)) is EngineFailed


def test_text_that_the_tokenizer_cannot_make_fails_its_request_alone(open_engine: Open) -> None:
    engine = open_engine(tokenizer=standin.Broken(), step_seconds=0.001)
    fine = engine.submit(ask("fine", 40, stream=True))
    for number, sampling in enumerate([Sampling(stop=("never",)), Sampling()]):
        broken = Request(
            id=str(number), max_tokens=40, messages=[Message("user", "##")], sampling=sampling
        )
        assert error_of(engine.submit(broken)) is EngineFailed
    assert fine.result(timeout=60).text == "fine" * 10


@pytest.mark.parametrize(
    ("factory", "error", "message"),
    [
        ("refuse", ModelLoadFailed, "The folder /nowhere does not exist."),
        ("not_know", UnknownArchitecture, "The native engine has no forward for models of kind x."),
        ("crash", ModelLoadFailed, "The engine could not be built: ValueError."),
        (
            "vanish",
            ModelLoadFailed,
            "The engine's process was killed, as the kernel does when memory runs out. "
            "It was loading the model.",
        ),
        ("nothing", ModelLoadFailed, "The engine could not be built: AttributeError."),
    ],
)
def test_a_model_that_does_not_load_says_why(
    open_engine: Open, factory: str, error: type[ModelLoadFailed], message: str
) -> None:
    with pytest.raises(ModelLoadFailed) as raised:
        open_engine(factory)
    assert (type(raised.value), raised.value.message) == (error, message)


def test_closing_ends_everything(endless: NativeEngine) -> None:
    pid = pid_of(endless)
    future = endless.submit(ask("ab", LONG))
    endless.close()
    assert error_of(future) is EngineClosed
    assert error_of(endless.submit(ask("cd"))) is EngineClosed
    with pytest.raises(EngineClosed):
        endless.ready()
    assert is_gone(pid)
    assert not [each for each in threading.enumerate() if each.name.startswith("engine-")]


def test_the_signals_of_a_terminal_do_not_end_the_process_before_its_worker(
    endless: NativeEngine,
) -> None:
    for sent in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid_of(endless), sent)
    assert endless.submit(ask("ab", 4)).result(timeout=60).text == "abab"
    assert endless.stats().restarts == 0


@pytest.mark.parametrize(
    ("fate", "how"),
    [
        (KILLS, "The engine's process was killed, as the kernel does when memory runs out."),
        (RAISES, "The engine's process failed; its log says how."),
        (LEAVES, "The engine's process ended by itself (exit code 3)."),
        (STARVES, "The engine ran out of memory, even for a single token."),
    ],
    ids=["killed", "raises", "leaves", "starves"],
)
def test_a_process_that_dies_loses_what_ran_and_is_started_again(
    open_engine: Open, fate: str, how: str
) -> None:
    engine = open_engine(kv_tokens=2 * LONG, step_seconds=0.005)
    runs = engine.submit(ask("ab", LONG))
    kills = engine.submit(ask(fate))
    for each in (runs, kills):
        error = each.exception(timeout=60)
        assert type(error) is EngineLost
        assert error.message == how
    wait_for(engine.ready)
    assert engine.submit(ask("ab", 4)).result(timeout=60).text == "abab"
    assert (engine.stats().restarts, engine.stats().problem) == (1, "")


def test_only_what_the_loop_had_before_its_last_step_is_lost(open_engine: Open) -> None:
    engine = open_engine()
    assert engine.submit(ask("ab", 2)).result(timeout=60).text == "ab"
    hangs = engine.submit(ask(HANGS))  # before the next statistics are due
    wait_for(lambda: engine._flight._taken == 2)
    later = [engine.submit(ask("later")) for _ in range(3)]
    os.kill(pid_of(engine), signal.SIGKILL)
    assert error_of(hangs) is EngineLost
    assert [error_of(each) for each in later] == [EngineClosed] * 3
    wait_for(engine.ready)


def test_who_waits_for_a_slot_in_a_process_that_dies_is_lost_like_who_runs(
    open_engine: Open,
) -> None:
    engine = open_engine(kv_tokens=2 * LONG, slots=1, step_seconds=0.005)
    futures = [engine.submit(ask("runs", LONG)), engine.submit(ask("waits", LONG))]
    wait_for(lambda: engine._flight._taken == 2)
    os.kill(pid_of(engine), signal.SIGKILL)
    assert [error_of(each) for each in futures] == [EngineLost] * 2


def test_a_process_that_hangs_is_killed_and_one_without_work_is_not(open_engine: Open) -> None:
    engine = open_engine(stall_seconds=0.4)
    time.sleep(1)  # silent, but there is nothing to say
    assert engine.stats().restarts == 0
    pid = pid_of(engine)
    error = engine.submit(ask(HANGS)).exception(timeout=60)
    assert type(error) is EngineLost
    assert error.message == "The engine's process hung for 0.4 s and was killed."
    wait_for(lambda: is_gone(pid))  # its jobs come back before it is waited for
    wait_for(engine.ready)


def test_the_process_makes_way_for_nobody_even_if_its_worker_does(open_engine: Open) -> None:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # of this thread, and of its own
    try:
        engine = open_engine()
        assert os.sched_getscheduler(pid_of(engine)) == os.SCHED_OTHER
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def test_while_it_restarts_the_engine_is_not_ready_and_says_why(open_engine: Open) -> None:
    engine = open_engine(patience=Patience(first_seconds=3600))
    assert error_of(engine.submit(ask(KILLS))) is EngineLost
    assert not engine.ready()
    assert error_of(engine.submit(ask("ab"))) is EngineClosed
    assert engine.stats().problem == (
        "The engine's process was killed, as the kernel does when memory runs out. "
        "It is being started again."
    )
    engine.close()  # does not wait for the hour to pass


def test_after_five_deaths_in_a_row_it_is_not_started_again(
    open_engine: Open, tmp_path: Any
) -> None:
    engine = open_engine(alone=str(tmp_path / "there"))
    assert error_of(engine.submit(ask(KILLS))) is EngineLost
    wait_for(lambda: "any more" in engine.stats().problem)
    with pytest.raises(EngineClosed) as closed:
        engine.ready()
    assert closed.value.message == engine.stats().problem
    assert error_of(engine.submit(ask("ab"))) is EngineClosed
    assert engine.stats().restarts == 4


def test_an_engine_that_answers_before_it_dies_is_started_again_and_again(
    open_engine: Open,
) -> None:
    engine = open_engine()
    for _ in range(7):
        assert engine.submit(ask("ab", 4)).result(timeout=60).text == "abab"
        assert error_of(engine.submit(ask(KILLS))) is EngineLost
        wait_for(engine.ready)
    assert engine.stats().restarts == 7
    assert engine.submit(ask("ab", 4)).result(timeout=60).text == "abab"
    assert engine.stats().generated_tokens == 8 * 4  # counted over all processes


NO_ANSWERS: dict[FinishReason | None, Request] = {
    FinishReason.CANCELLED: Request(id="x", prompt="ab", max_tokens=LONG),
    FinishReason.DEADLINE: Request(id="x", prompt="ab", max_tokens=LONG, deadline=0),
    None: Request(id="x", messages=[Message("user", "##")], max_tokens=40),  # it fails
}


@pytest.mark.parametrize("reason", NO_ANSWERS, ids=["cancelled", "late", "failed"])
def test_what_is_no_answer_does_not_keep_an_engine_from_being_given_up(
    open_engine: Open, reason: FinishReason | None
) -> None:
    engine = open_engine(tokenizer=standin.Broken(), kv_tokens=2 * LONG, step_seconds=0.005)
    for _ in range(Patience().deaths):
        wait_for(engine.ready)
        future = engine.submit(NO_ANSWERS[reason])
        if reason is FinishReason.CANCELLED:
            engine.cancel("x")
        failed = future.exception(timeout=60)
        assert type(failed) is EngineFailed if failed else future.result().finish_reason is reason
        assert error_of(engine.submit(ask(KILLS))) is EngineLost
    wait_for(lambda: "any more" in engine.stats().problem)


def test_the_time_that_a_process_hangs_is_none_that_it_worked(open_engine: Open) -> None:
    patience = Patience(first_seconds=0.01, deaths=2, settled_seconds=0.9)
    engine = open_engine(stall_seconds=1, patience=patience)
    for _ in range(2):
        wait_for(engine.ready)
        assert error_of(engine.submit(ask(HANGS))) is EngineLost
    wait_for(lambda: "any more" in engine.stats().problem)


WORKER = """
import time
from tests.integration import standin
from tests.integration.conftest import Open
from workers.engines.base import Request
from workers.engines.native import wire
from workers.engines.native.engine import NativeEngine

engine = NativeEngine(
    wire.Load("tests.integration.standin:build", {}),
    tokenizer=standin.Characters(), context_length=1000, slots=1, stall_seconds=1000,
)
engine.submit(Request(id="1", prompt=%r, max_tokens=900))
while not engine._flight._taken:
    time.sleep(0.01)
print(engine._keeper.process.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("prompt", ["ab", HANGS], ids=["idle", "hanging"])
def test_the_process_does_not_outlive_a_killed_worker_even_in_a_step_that_hangs(
    prompt: str,
) -> None:
    command = [sys.executable, "-c", WORKER % prompt]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        line = next(each for each in worker.stdout if each.strip().isdigit())
        assert not is_gone(int(line))
        worker.kill()
        wait_for(lambda: is_gone(int(line)))


def test_a_process_that_cannot_be_started_fails_the_load(
    open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ModelLoadFailed, match="could not be started: No such file"):
        open_engine()
