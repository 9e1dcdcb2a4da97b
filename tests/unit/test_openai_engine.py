"""The engine ``openai`` against a real HTTP server, as it should be and with faults."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.errors import (
    ContextLengthExceeded,
    EngineClosed,
    EngineFailed,
    EngineLost,
    InvalidRequest,
)
from scripts.stack import ports
from tests.openai_server import PIECES, PROMPT_TOKENS, OpenAIServer, serving
from workers.engines.base import (
    Delta,
    FinishReason,
    Generation,
    Message,
    Publisher,
    Request,
    Sampling,
    TokenLogprob,
    nowhere,
)
from workers.engines.openai.engine import OpenAIEngine
from workers.engines.openai.link import Server

TEXT = "".join(PIECES)
# As vLLM, OpenAI and llama.cpp say it.
TOO_LONG_BY_MESSAGE = {"error": {"code": 400, "message": "The maximum context length is 5."}}
TOO_LONG_BY_CODE = {"error": {"code": "context_length_exceeded", "message": "5 tokens"}}
TOO_LONG_BY_TYPE = {"error": {"type": "exceed_context_size_error", "message": "5 tokens"}}


@contextmanager
def engine(url: str, *, slots: int = 4, publish: Publisher = nowhere) -> Iterator[OpenAIEngine]:
    one = OpenAIEngine(Server(url, "secret"), model="the-model", slots=slots, publish=publish)
    try:
        yield one
    finally:
        one.close()


def request(id: str = "1", max_tokens: int = 50, **more: Any) -> Request:
    more.setdefault("prompt", None if "messages" in more else "Count")
    return Request(id=id, max_tokens=max_tokens, **more)


def ask(url: str, **parameters: Any) -> Generation:
    with engine(url) as one:
        return one.submit(request(**parameters)).result(timeout=30)


def test_a_prompt_is_completed_verbatim_and_a_chat_by_the_servers_template() -> None:
    chat = [Message("system", "Be kind."), Message("user", "Count")]
    with serving() as server:
        assert ask(server.url).text == TEXT
        assert ask(server.url, messages=chat).text == TEXT
    assert server.paths == ["/v1/completions", "/v1/chat/completions"]
    assert server.bodies[0]["prompt"] == "Count"
    assert server.bodies[1]["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Count"},
    ]


def test_every_sampling_parameter_is_sent() -> None:
    sampling = Sampling(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        seed=3,
        min_p=0.1,
        stop=("a", "b"),
        stop_token_ids=(4, 5),
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        logprobs=True,
    )
    with serving() as server:
        ask(server.url, sampling=sampling, max_tokens=9)
        ask(server.url, sampling=sampling, messages=[Message("user", "Count")])
    sent, chat = server.bodies
    assert sent == {
        "model": "the-model",
        "prompt": "Count",
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "timings_per_token": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 3,
        "min_p": 0.1,
        "stop": ["a", "b"],
        "stop_token_ids": [4, 5],
        "repetition_penalty": 1.1,
        "repeat_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "logprobs": 5,
    }
    assert (chat["logprobs"], chat["top_logprobs"]) == (True, 5)


def test_defaults_are_sent_since_each_server_has_its_own() -> None:
    with serving() as server:
        ask(server.url)
    sent = server.bodies[0]
    assert (sent["temperature"], sent["top_p"], sent["top_k"], sent["min_p"]) == (1.0, 1.0, 0, 0.0)
    assert not {"seed", "stop", "stop_token_ids", "logprobs"} & sent.keys()


def test_tokens_are_those_of_the_servers_usage() -> None:
    with serving() as server:
        whole, cut = ask(server.url), ask(server.url, max_tokens=4)
    assert whole == Generation(TEXT, FinishReason.STOP, PROMPT_TOKENS, len(PIECES))
    assert cut == Generation("".join(PIECES[:4]), FinishReason.LENGTH, PROMPT_TOKENS, 4)


def test_without_usage_each_piece_is_a_token_and_the_prompt_is_free() -> None:
    with serving(usage="none") as server:
        answer = ask(server.url)
    assert answer == Generation(TEXT, FinishReason.STOP, 0, len(PIECES))


def test_many_requests_share_as_many_kept_connections_as_there_are_slots() -> None:
    with serving() as server, engine(server.url, slots=4) as one:
        futures = [one.submit(request(id=str(n))) for n in range(40)]
        assert {future.result(timeout=30).text for future in futures} == {TEXT}
        stats = one.stats()
    assert len(server.clients) <= 4
    assert server.most_running <= 4
    assert (stats.running, stats.waiting, stats.started) == (0, 0, 40)
    assert (stats.generated_tokens, stats.prefill_tokens) == (400, 280)


def test_slots_run_at_the_same_time_and_more_wait() -> None:
    with serving(hold=2) as server, engine(server.url, slots=3) as one:
        futures = [one.submit(request(id=str(n))) for n in range(5)]
        for _ in range(3):
            assert server.arrived.acquire(timeout=30)
        assert (one.stats().running, one.stats().waiting) == (3, 2)
        server.behaviour.go.set()
        assert all(future.result(timeout=30).text == TEXT for future in futures)
    assert server.most_running == 3


def test_the_deltas_of_a_request_joined_are_its_text() -> None:
    told: list[Delta] = []
    with serving(usage="each") as server, engine(server.url, publish=told.extend) as one:
        streaming = one.submit(request(id="a", stream=True))
        silent = one.submit(request(id="b"))
        assert streaming.result(timeout=30).text == silent.result(timeout=30).text == TEXT
    assert "".join(delta.text for delta in told) == TEXT
    assert {delta.request_id for delta in told} == {"a"}
    counts = [delta.tokens for delta in told]
    assert counts == sorted(counts)
    assert counts[-1] == len(PIECES)


def test_long_streams_are_told_in_groups() -> None:
    told: list[Delta] = []
    with serving(pieces=["x"] * 2000) as server, engine(server.url, publish=told.extend) as one:
        one.submit(request(stream=True, max_tokens=2000)).result(timeout=60)
    assert 10 < len(told) < 2000


def test_a_request_is_streamed_from_the_beginning_once_somebody_asks() -> None:
    told: list[Delta] = []

    def publish(deltas: Sequence[Delta]) -> None:
        told.extend(deltas)
        one.stream("late")
        one.stream("nobody")

    with serving(pieces=["x"] * 2000) as server, engine(server.url, publish=publish) as one:
        first = one.submit(request(id="first", stream=True, max_tokens=2000))
        late = one.submit(request(id="late", max_tokens=2000))
        text = late.result(timeout=60).text
        first.result(timeout=60)
    mine = [delta for delta in told if delta.request_id == "late"]
    assert "".join(delta.text for delta in mine) == text
    assert len(mine) > 3


def test_a_publisher_that_fails_fails_no_request() -> None:
    def publish(_: Sequence[Delta]) -> None:
        raise OSError

    with serving() as server, engine(server.url, publish=publish) as one:
        assert one.submit(request(stream=True)).result(timeout=30).text == TEXT


@contextmanager
def held(**behaviour: Any) -> Iterator[tuple[OpenAIServer, OpenAIEngine]]:
    """A server that stops in the middle of each answer, and an engine with one slot."""
    with serving(hold=4, **behaviour) as server, engine(server.url, slots=1) as one:
        yield server, one


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it holds, long enough for any machine."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_cancelled_request_hangs_up_and_keeps_what_it_has() -> None:
    with held(usage="each") as (server, one):
        future = one.submit(request())
        assert server.holding.acquire(timeout=30)
        one.cancel("1")
        answer = future.result(timeout=30)
        assert server.hung_up.acquire(timeout=30)
        one.cancel("1")
    assert answer == Generation("".join(PIECES[:4]), FinishReason.CANCELLED, PROMPT_TOKENS, 4)


def test_a_cancelled_stream_has_told_all_that_it_keeps() -> None:
    told: list[Delta] = []
    with serving(hold=4) as server, engine(server.url, publish=told.extend) as one:
        future = one.submit(request(stream=True))
        assert server.holding.acquire(timeout=30)
        one.cancel("1")
        answer = future.result(timeout=30)
    assert "".join(delta.text for delta in told) == answer.text == "".join(PIECES[:4])


def test_a_server_that_says_nothing_at_all_is_left_as_well() -> None:
    with held(faults=deque(["silent", "silent"])) as (server, one):
        cancelled = one.submit(request(id="a"))
        late = one.submit(request(id="b", deadline=time.monotonic() + 0.3))
        assert server.arrived.acquire(timeout=30)
        one.cancel("a")
        assert cancelled.result(timeout=30) == Generation("", FinishReason.CANCELLED, 0, 0)
        assert late.result(timeout=30) == Generation("", FinishReason.DEADLINE, 0, 0)


def test_a_deadline_ends_requests_that_run_and_that_wait() -> None:
    with held() as (_, one):
        deadline = time.monotonic() + 0.5
        runs, waits = (one.submit(request(id=each, deadline=deadline)) for each in "ab")
        assert runs.result(timeout=30).finish_reason is FinishReason.DEADLINE
        assert waits.result(timeout=30) == Generation("", FinishReason.DEADLINE, 0, 0)
        assert runs.result().completion_tokens == 4


def test_a_waiting_request_can_be_cancelled() -> None:
    with held() as (server, one):
        runs, waits = one.submit(request(id="a")), one.submit(request(id="b"))
        assert server.arrived.acquire(timeout=30)
        one.cancel("b")
        assert waits.result(timeout=30) == Generation("", FinishReason.CANCELLED, 0, 0)
        server.behaviour.go.set()
        assert runs.result(timeout=30).text == TEXT
    assert len(server.bodies) == 1


def test_a_slot_goes_on_after_a_cancel() -> None:
    with held() as (server, one):
        one.submit(request(id="a"))
        assert server.holding.acquire(timeout=30)
        one.cancel("a")
        server.behaviour.go.set()
        assert one.submit(request(id="b")).result(timeout=30).text == TEXT


@pytest.mark.parametrize(
    "fault",
    ["cut", "drop", "garbage", "strange", "abort", "error", (500, {}), (503, {}), (401, "no")],
)
def test_what_goes_wrong_once_is_asked_again_and_counted_once(fault: Any) -> None:
    with serving(faults=deque([fault, fault])) as server, engine(server.url) as one:
        answer = one.submit(request()).result(timeout=30)
        assert one.stats().generated_tokens == len(PIECES)
        assert one.stats().problem == ""
    assert answer == Generation(TEXT, FinishReason.STOP, PROMPT_TOKENS, len(PIECES))
    assert len(server.bodies) == 3


@pytest.mark.parametrize("fault", ["cut", (500, {"error": {"message": "out of memory"}})])
def test_a_request_that_breaks_the_server_three_times_is_left(fault: Any) -> None:
    with serving(faults=deque([fault] * 3)) as server, pytest.raises(EngineLost):
        ask(server.url)
    assert len(server.bodies) == 3


def test_an_answer_that_somebody_reads_is_not_begun_again() -> None:
    told: list[Delta] = []
    with (
        serving(faults=deque(["cut"])) as server,
        engine(server.url, publish=told.extend) as one,
        pytest.raises(EngineLost),
    ):
        one.submit(request(stream=True)).result(timeout=30)
    assert told
    assert len(server.bodies) == 1


def test_a_server_that_dies_and_comes_back_loses_no_request() -> None:
    port = ports.find_free()
    with engine(f"http://127.0.0.1:{port}/v1", slots=3) as one:
        with serving(port, hold=4) as first:
            futures = [one.submit(request(id=str(n))) for n in range(5)]
            for _ in range(3):
                assert first.holding.acquire(timeout=30)
            first.socket.close()
            first.behaviour.die.set()
            wait_for(lambda: "cannot be reached" in one.stats().problem)
        with serving(port) as second:
            assert {future.result(timeout=60).text for future in futures} == {TEXT}
        assert one.stats().generated_tokens == 5 * len(PIECES)
    assert len(second.bodies) == 5


def test_while_the_server_is_away_requests_wait_for_it() -> None:
    port = ports.find_free()
    with engine(f"http://127.0.0.1:{port}/v1") as one:
        future = one.submit(request())
        wait_for(lambda: "cannot be reached" in one.stats().problem)
        assert one.ready()
        with serving(port):
            assert future.result(timeout=30).text == TEXT
        assert one.stats().problem == ""


def test_a_server_that_stays_away_is_waited_for_until_the_deadline() -> None:
    with engine(f"http://127.0.0.1:{ports.find_free()}/v1") as one:
        late = one.submit(request(id="a", deadline=time.monotonic() + 0.4))
        cancelled = one.submit(request(id="b"))
        assert late.result(timeout=30) == Generation("", FinishReason.DEADLINE, 0, 0)
        one.cancel("b")
        assert cancelled.result(timeout=30) == Generation("", FinishReason.CANCELLED, 0, 0)


def test_a_connection_that_the_server_closed_meanwhile_is_no_trouble() -> None:
    with (
        serving(hang_up_after_answer=True) as server,
        engine(server.url, slots=1) as one,
        capture_logs() as logs,
    ):
        for number in range(3):
            assert one.submit(request(id=str(number))).result(timeout=30).text == TEXT
            wait_for(lambda: server.running == 0)
            time.sleep(0.05)
    assert (len(server.bodies), len(server.clients)) == (3, 3)
    assert logs == []


@pytest.mark.parametrize(
    ("status", "said", "error"),
    [
        (400, {"error": {"message": "no such thing"}}, InvalidRequest),
        (422, {"message": "no such thing"}, InvalidRequest),
        (400, {"error": "no such thing"}, InvalidRequest),
        (400, TOO_LONG_BY_MESSAGE, ContextLengthExceeded),
        (400, TOO_LONG_BY_CODE, ContextLengthExceeded),
        (400, TOO_LONG_BY_TYPE, ContextLengthExceeded),
        (500, {"error": {"message": "no such thing", "code": 400}}, InvalidRequest),
    ],
)
def test_a_refusal_is_the_clients_with_the_servers_words(
    status: int, said: Any, error: type[Exception]
) -> None:
    with serving(faults=deque([(status, said)])) as server, engine(server.url, slots=1) as one:
        with pytest.raises(error, match=r"no such thing|context length is 5|5 tokens"):
            one.submit(request(id="a")).result(timeout=30)
        assert one.submit(request(id="b")).result(timeout=30).text == TEXT
    assert len(server.bodies) == 2


def test_closing_ends_what_runs_and_what_waits_and_takes_no_more() -> None:
    with held() as (server, one):
        futures = [one.submit(request(id=each)) for each in "ab"]
        assert server.arrived.acquire(timeout=30)
        one.close()
        futures.append(one.submit(request(id="c")))
        for future in futures:
            with pytest.raises(EngineClosed):
                future.result(timeout=30)
        with pytest.raises(EngineClosed):
            one.ready()
    wait_for(lambda: not any(each.name.startswith("openai") for each in threading.enumerate()))


def test_an_id_is_in_flight_only_once() -> None:
    with held() as (server, one):
        first = one.submit(request())
        with pytest.raises(EngineFailed, match="in flight"):
            one.submit(request()).result(timeout=30)
        server.behaviour.go.set()
        assert first.result(timeout=30).text == TEXT


CHAT_FORM = {
    "content": [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]}]
}
LIST_FORM = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -2, "a": -0.5}]}


@pytest.mark.parametrize("form", [CHAT_FORM, LIST_FORM])
def test_logprobs_are_read_in_both_forms(form: dict[str, Any]) -> None:
    with serving(pieces=["a", "a"], choice={"logprobs": form}) as server:
        answer = ask(server.url, sampling=Sampling(logprobs=True))
        assert ask(server.url).logprobs is None
    assert answer.logprobs is not None
    assert [(each.token, each.logprob, each.top[0]) for each in answer.logprobs] == [
        ("a", -0.5, ("a", -0.5))
    ] * 2
    assert isinstance(answer.logprobs[0], TokenLogprob)


def test_a_schema_is_refused_since_none_is_sent() -> None:
    with serving() as server, pytest.raises(InvalidRequest, match="cannot constrain"):
        ask(server.url, sampling=Sampling(json_schema='{"type":"object"}'))
    assert not server.bodies
