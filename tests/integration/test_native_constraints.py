"""Rows that follow a JSON schema, beside others, in the native engine's loop and its process."""

import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from app.errors import EngineClosed, EngineLost, InvalidRequest
from tests.integration import tiny
from tests.integration.loops import (
    CONTEXT,
    GREEDY,
    Heard,
    generated,
    job,
    loop,
    prompts,
)
from tests.integration.standin import Characters
from workers.engines.base import FinishReason, Request, Sampling
from workers.engines.grammar import Grammar, Grammars
from workers.engines.native import schemas as checking
from workers.engines.native import wire
from workers.engines.native.engine import NativeEngine
from workers.engines.native.loop import Loop
from workers.engines.native.schemas import TOO_COMPLEX, Schemas

TOKENIZER = tiny.tokenizer()
VOCABULARY = len(TOKENIZER)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{1,6}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
SCHEMAS: list[dict[str, Any]] = [
    PERSON,
    {"enum": ["yes", "no", 7, None]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
]
NEVER_ENDS = {"type": "string", "minLength": 1000}
# Its grammar grows with every token, and soon too much.
GROWS = {"type": "string", "pattern": "^(a?){5000}a{5000}$"}
# Two kilobytes whose compilation would take longer than anybody waits.
ENDLESS = {"allOf": [{"type": "string", "pattern": f"a{number}.*b"} for number in range(60)]}
# Half of its levels, in 27 kilobytes, use up the compiler's stack.
DEEP = {
    "$ref": "#/$defs/0",
    "$defs": {
        **{
            str(number): json.loads(
                '{"items":' * 100 + json.dumps({"$ref": f"#/$defs/{number + 1}"}) + "}" * 100
            )
            for number in range(52)
        },
        "52": {},
    },
}
CANNOT = "This model's engine cannot constrain its output."


def under(schema: dict[str, Any], **more: Any) -> Sampling:
    """Sampling with a schema."""
    more.setdefault("seed", 1)
    return Sampling(json_schema=json.dumps(schema), **more)


def text_of(heard: Heard, key: int) -> str:
    return str(TOKENIZER.decode(heard.tokens[key]))


def follow(made: Loop, jobs: list[wire.Job], *, pauses: bool = False) -> Heard:
    """Run these together, some of them losing their memory on the way; nothing is left behind."""
    chance, heard = random.Random(1), Heard()
    for each in jobs:
        made.submit(each)
    while made.busy:
        heard.take(made.step())
        if pauses and made._scheduler.running.size and chance.random() < 0.3:
            made._scheduler.preempt(int(chance.choice(made._scheduler.running.tolist())))
    stats = made.stats()
    assert (stats.running, stats.waiting, stats.kv_used) == (0, 0, 0)
    assert not made._scheduler.held
    kept = made._constraints
    assert not (kept._compiling or kept._ready or kept._rows)
    return heard


@pytest.mark.parametrize("pauses", [False, True])
def test_constrained_rows_end_as_their_schemas_say_and_change_nobody_else(pauses: bool) -> None:
    model = tiny.llama()
    free = prompts(10, VOCABULARY)
    wanted = [generated(model, *each) for each in free]
    made = loop(model)
    jobs = [job(key, *each) for key, each in enumerate(free)]
    for key in range(10, 40):
        sampling = under(SCHEMAS[key % 3], seed=key, top_p=0.95)
        jobs.insert(key % 7 * 4, job(key, [key, 5, 6], 60, sampling=sampling))
    heard = follow(made, jobs, pauses=pauses)
    assert (made.stats().preemptions > 10) == pauses
    assert [heard.tokens.get(key, []) for key in range(10)] == wanted
    assert {heard.ends[key].reason for key in range(10, 40)} == {FinishReason.STOP}
    texts = {key: text_of(heard, key) for key in range(10, 40)}
    assert len(set(texts.values())) > 12
    for key, text in texts.items():
        jsonschema.validate(json.loads(text), SCHEMAS[key % 3])


def test_a_seed_gives_the_same_answer_in_other_company_and_after_a_pause() -> None:
    jobs = [
        job(key, [key + 1] * 4, 60, sampling=under(PERSON, seed=key, temperature=2.0))
        for key in range(6)
    ]
    alone = {each.key: follow(loop(tiny.llama()), [each]).tokens[each.key] for each in jobs}
    made = loop(tiny.llama())
    assert follow(made, jobs, pauses=True).tokens == alone
    assert made.stats().preemptions > 0


def test_a_greedy_row_follows_its_schema_too_and_ends_with_its_last_character() -> None:
    schema = {"const": {"a": [1, 2]}}
    heard = follow(loop(tiny.llama()), [job(1, [5, 6], 60, sampling=under(schema, temperature=0))])
    assert text_of(heard, 1) == '{"a": [1, 2]}'
    assert heard.reasons() == {1: FinishReason.STOP}


def test_an_answer_that_is_whole_with_its_last_token_has_stopped() -> None:
    sampling = under({"const": 12}, temperature=0)
    made = loop(tiny.llama())
    tokens = len(follow(made, [job(1, [5, 6], 60, sampling=sampling)]).tokens[1])
    heard = follow(made, [job(2, [5, 6], tokens, sampling=sampling)])
    assert heard.reasons() == {2: FinishReason.STOP}


def test_an_answer_may_be_cut_by_the_most_tokens_asked_for() -> None:
    heard = follow(loop(tiny.llama()), [job(1, [5, 6], 10, sampling=under(NEVER_ENDS))])
    assert heard.reasons() == {1: FinishReason.LENGTH}
    assert len(heard.tokens[1]) == 10


def test_a_grammar_that_fails_on_the_way_fails_its_row_alone() -> None:
    beside = job(2, [5, 6], 20)
    heard = follow(loop(tiny.llama()), [job(1, [5, 6], 60, sampling=under(GROWS)), beside])
    assert heard.ends[1].reason is None
    assert "cannot follow the schema" in (heard.ends[1].error or "")
    assert heard.tokens[2] == generated(tiny.llama(), [5, 6], 20)


def test_a_grammar_that_fails_at_the_last_token_asked_for_ends_its_row_once() -> None:
    made = loop(tiny.llama())
    for limit in range(1, 60):
        heard = follow(made, [job(limit, [5, 6], limit, sampling=under(GROWS))])
        if heard.ends[limit].reason is None:
            break
        assert heard.reasons() == {limit: FinishReason.LENGTH}
    assert "cannot follow the schema" in (heard.ends[limit].error or "")


def test_logprobs_are_those_of_the_model_without_the_schema() -> None:
    told: list[wire.Logprobs] = []
    made = loop(tiny.llama())
    for key, sampling in enumerate((GREEDY, under({"const": 7}, temperature=0))):
        asked = Sampling(temperature=0, logprobs=True, json_schema=sampling.json_schema)
        made.submit(job(key, [5, 6], 1, sampling=asked))
        while made.busy:
            told.extend(made.step().logprobs.values())
    free, constrained = told
    assert free.top_ids.tolist() == constrained.top_ids.tolist()
    assert free.top == pytest.approx(constrained.top)
    assert constrained.chosen[0] < free.chosen[0]


def test_a_schema_is_compiled_once_for_all_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_one = Grammars.compile

    def counted(grammars: Grammars, schema: str) -> Grammar:
        compiled.append(schema)
        return compile_one(grammars, schema)

    monkeypatch.setattr(Grammars, "compile", counted)
    jobs = [job(key, [5, 6], 60, sampling=under(PERSON, seed=key)) for key in range(20)]
    heard = follow(loop(tiny.llama()), jobs)
    assert set(heard.reasons().values()) == {FinishReason.STOP}
    assert compiled == [json.dumps(PERSON)]


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Compiling waits for this."""
    goes_on = threading.Event()
    compile_one = Grammars.compile

    def waiting(grammars: Grammars, schema: str) -> Grammar:
        assert goes_on.wait(60)
        return compile_one(grammars, schema)

    monkeypatch.setattr(Grammars, "compile", waiting)
    yield goes_on
    goes_on.set()


def test_nobody_waits_for_the_schema_of_another(stuck: threading.Event) -> None:
    made, heard = loop(tiny.llama()), Heard()
    made.submit(job(1, [5, 6], 60, sampling=under(PERSON)))
    made.submit(job(2, [5, 6], 20))
    while 2 not in heard.ends:
        heard.take(made.step())
    assert heard.tokens[2] == generated(tiny.llama(), [5, 6], 20)
    heard.take(made.step())
    assert 1 not in heard.ends
    stuck.set()
    while made.busy:
        heard.take(made.step())
    jsonschema.validate(json.loads(text_of(heard, 1)), PERSON)


@pytest.mark.parametrize("reason", [FinishReason.CANCELLED, FinishReason.DEADLINE])
def test_who_waits_for_its_schema_can_end(stuck: threading.Event, reason: FinishReason) -> None:
    made = loop(tiny.llama())
    late = 0.0 if reason is FinishReason.DEADLINE else None
    made.submit(job(1, [5, 6], 60, sampling=under(PERSON), deadline=late))
    if late is None:
        made.cancel(1, reason)
    heard = follow(made, [])
    assert heard.reasons() == {1: reason}
    assert not heard.ends[1].prefilled


def test_a_schema_that_the_loop_cannot_follow_ends_its_request_unpaid() -> None:
    made = loop(tiny.llama())
    bad = job(1, [5, 6], 60, sampling=under({"type": "objekt"}))
    heard = follow(made, [bad, job(2, [5, 6], 5)])
    assert "Invalid type: objekt" in (heard.ends[1].error or "")
    assert not heard.ends[1].prefilled
    assert len(heard.tokens[2]) == 5
    made._constraints._grammars = None
    heard = follow(made, [job(3, [5, 6], 60, sampling=under(PERSON))])
    assert heard.ends[3].error == CANNOT


@pytest.fixture
def checks() -> Iterator[Schemas]:
    made = Schemas(TOKENIZER)
    yield made
    made.close()


@pytest.mark.parametrize("schema", [ENDLESS, DEEP], ids=["time", "stack"])
def test_a_schema_that_takes_too_much_is_refused_and_the_next_is_checked(
    checks: Schemas, schema: dict[str, Any]
) -> None:
    checks.check(json.dumps(PERSON))
    for _ in range(2):
        with pytest.raises(InvalidRequest) as refusal:
            checks.check(json.dumps(schema))
        assert refusal.value.message == TOO_COMPLEX
    checks.check(json.dumps({"type": "null"}))


@pytest.mark.parametrize(
    "schema", ['{"type": "objekt"}', "{", '{"items": ' * 900 + "{}" + "}" * 900]
)
def test_a_bad_schema_is_refused_again_and_again(checks: Schemas, schema: str) -> None:
    for _ in range(2):
        with pytest.raises(
            InvalidRequest, match="This JSON schema cannot be followed: "
        ) as refusal:
            checks.check(schema)
    assert len(refusal.value.message) < 400


def test_verdicts_are_remembered_up_to_a_number(
    checks: Schemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "KEPT", 2)
    asked: list[str] = []
    ask = checks._ask
    monkeypatch.setattr(checks, "_ask", lambda schema: asked.append(schema) or ask(schema))
    for number in (1, 2, 2, 1, 3, 2, 1):
        checks.check(json.dumps({"const": number}))
    assert [json.loads(each)["const"] for each in asked] == [1, 2, 3, 1]


class Unreadable(Characters):
    """A fast tokenizer of a kind that nobody knows."""

    @property
    def backend_tokenizer(self) -> Any:
        return self

    def to_str(self) -> str:
        return "{}"

    def __len__(self) -> int:
        return 100


@pytest.mark.parametrize("tokenizer", [Characters(), Unreadable()], ids=["slow", "unreadable"])
def test_with_a_tokenizer_of_another_kind_every_schema_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Schemas(tokenizer).check("{}")
    assert refusal.value.message == CANNOT


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
def test_a_check_that_cannot_start_is_for_another_worker_and_says_nothing_of_the_schema(
    checks: Schemas, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("sys.executable", program)
        with pytest.raises(EngineClosed, match="did not start"):
            checks.check("{}")
    checks.check("{}")


def test_a_check_whose_process_was_killed_while_it_was_idle_is_done_by_another(
    checks: Schemas,
) -> None:
    checks.check(json.dumps(PERSON))
    kill_process_of(checks)
    checks.check('{"type": "null"}')


def test_a_schema_under_which_processes_are_killed_is_lost_and_not_called_too_complex(
    checks: Schemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = checks._start, []

    def start_and_kill() -> Any:
        started.append(start())
        kill_process_of(checks)
        return started[-1]

    with monkeypatch.context() as short_of_memory:
        short_of_memory.setattr(checks, "_start", start_and_kill)
        with pytest.raises(EngineLost):
            checks.check(json.dumps(PERSON))
    assert len(started) == 2
    checks.check(json.dumps(PERSON))


def kill_process_of(checks: Schemas) -> None:
    """As the kernel does when memory runs out."""
    assert checks._process is not None
    checks._process.kill()
    checks._process.wait()


@pytest.fixture(scope="module")
def engine() -> Iterator[NativeEngine]:
    """A tiny model in an engine's process."""
    made = NativeEngine(
        wire.Load("tests.integration.loops:build", {}),
        tokenizer=TOKENIZER,
        context_length=CONTEXT,
        slots=6,
        stall_seconds=60,
    )
    yield made
    made.close()


def test_through_the_engine_every_answer_satisfies_its_schema(engine: NativeEngine) -> None:
    def ask(number: int) -> Request:
        sampling = under(SCHEMAS[number % 3], seed=number)
        return Request(id=str(number), prompt="hello", max_tokens=60, sampling=sampling)

    free = Request(id="free", prompt="hello", max_tokens=20, sampling=GREEDY)
    alone = engine.submit(free).result(timeout=60)
    answers = [engine.submit(ask(number)) for number in range(20)]
    assert engine.submit(free).result(timeout=60) == alone
    for number, answer in enumerate(answers):
        done = answer.result(timeout=60)
        assert done.finish_reason is FinishReason.STOP
        jsonschema.validate(json.loads(done.text), SCHEMAS[number % 3])


def test_the_engine_refuses_a_bad_schema_and_goes_on(engine: NativeEngine) -> None:
    for schema in ({"type": "objekt"}, ENDLESS):
        request = Request(id="bad", prompt="hello", max_tokens=60, sampling=under(schema))
        with pytest.raises(InvalidRequest, match="This JSON schema"):
            engine.submit(request).result(timeout=60)
    assert engine.stats().restarts == 0
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)


def test_a_closed_engine_leaves_no_process_behind(engine: NativeEngine) -> None:
    engine._schemas.check('{"type": "null"}')
    process = engine._schemas._process
    assert process is not None
    engine.close()
    assert process.poll() is not None
    late = Request(id="late", prompt="hello", max_tokens=60, sampling=under({"const": "late"}))
    with pytest.raises(EngineClosed):
        engine.submit(late).result(timeout=60)
    assert engine._schemas._process is None
