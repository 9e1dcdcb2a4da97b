"""The loop of the engine: schedule, run, choose, tell."""

import time
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.engines.base import FinishReason, Stats
from workers.engines.breakdown import MemoryGone
from workers.engines.grammar import Grammars
from workers.engines.memory import is_out_of_memory
from workers.engines.native.batch import Batch
from workers.engines.native.blocks import Blocks
from workers.engines.native.constraints import Constraints
from workers.engines.native.scheduler import Scheduler
from workers.engines.native.slots import Slots
from workers.engines.native.telling import Telling
from workers.engines.native.wire import End, Ids, Job, Progress
from workers.engines.sampling import Choice, Sampler

UNKNOWN_TOKEN = "The prompt has a token that the model does not know."
NOT_A_NUMBER = "The model's output is not a number."

log = structlog.get_logger(__name__)


class Runner(Protocol):
    """A model with its KV memory."""

    vocabulary: int
    device: torch.device
    block_size: int  # tokens
    block_count: int
    embeddings: int  # ids from 0 that it can read; more than ``vocabulary``, or fewer

    def run(self, batch: Batch, newest: Tensor) -> Tensor:
        """One forward pass; the logits of ``batch.wanted``, of the shape (W, vocabulary).

        ``newest`` (slots,) int32 has the tokens of ``batch.ahead``, see Sampler.
        """


@dataclass(frozen=True, slots=True)
class Flight:
    """A step that was begun: who gets tokens from it, all (rows,), and what is chosen for them."""

    slots: Ids
    keys: NDArray[np.int64]
    choice: Choice


class Loop:
    """Decodes many requests together; one thread calls it."""

    def __init__(
        self,
        runner: Runner,
        *,
        slots: int,
        context_length: int,
        budget: int,
        end_tokens: frozenset[int],
        grammars: Grammars | None = None,
        ahead: bool = False,
        refused: dict[str, str] | None = None,
    ) -> None:
        """``context_length`` and ``budget``, the most new tokens of a step, are in tokens;
        ``grammars`` None refuses requests with a schema; ``refused`` is for wire.Ready.

        ``ahead``: begin each step before the tokens of the last are known here, so that a GPU never
        waits for the host. A request that ends takes part in one step too many for it.
        """
        self._runner = runner
        self.refused = refused or {}
        blocks = Blocks(runner.block_count, runner.block_size)
        self.kv_tokens = min(context_length, blocks.count * blocks.size)
        width = blocks.blocks_for(context_length)
        self._slots = Slots(slots, context_length, table_width=width)
        self._scheduler = Scheduler(self._slots, blocks, budget=budget)
        self._sampler = Sampler(slots, runner.vocabulary, runner.device)
        self._constraints = Constraints(grammars)
        self._ahead = ahead
        self._flight: Flight | None = None
        self._end_tokens = np.array(sorted(end_tokens), np.int32)
        self._telling = Telling(self._slots)
        self._slot_of: dict[int, int] = {}  # by key
        self._stops: dict[int, tuple[int, ...]] = {}  # by slot
        self._interrupted: dict[int, FinishReason] = {}  # by key, to end before the next step
        self._arrived: dict[int, float] = {}  # waiting ones by key, monotonic seconds
        self._earliest = float("inf")  # deadline among those that wait
        self._steps = self._generated = self._prefilled = self._started = 0
        self._step_seconds = self._queue_seconds = 0.0

    @property
    def busy(self) -> bool:
        """Whether anybody waits or runs."""
        return bool(self._slot_of or self._scheduler.waiting or self._telling.ends)

    def submit(self, job: Job) -> None:
        """Queue a request, whose prompt and answer together are at most ``kv_tokens``."""
        # A tokenizer may have more tokens than the model, and a step with one fails for everybody.
        if job.prompt.max() >= self._runner.embeddings:
            end = End(job.key, None, prefilled=False, error=UNKNOWN_TOKEN)
            self._telling.end_unseen(end)
            return
        self._scheduler.waiting[job.key] = job
        self._arrived[job.key] = time.monotonic()
        if job.sampling.json_schema is not None:
            self._scheduler.held.add(job.key)
            self._constraints.prepare(job.key, job.sampling.json_schema)
        if job.deadline is not None:
            self._earliest = min(self._earliest, job.deadline)

    def cancel(self, key: int, reason: FinishReason) -> None:
        """End a request before the next step; one that is over is ignored."""
        if key in self._slot_of or key in self._scheduler.waiting:
            self._interrupted[key] = reason

    def stream(self, key: int, every: int) -> None:
        """Tell a request's tokens in groups of ``every`` now; one that is over is ignored."""
        if key in self._slot_of:
            self._slots.every[self._slot_of[key]] = every
        elif key in self._scheduler.waiting:
            self._scheduler.waiting[key] = replace(self._scheduler.waiting[key], every=every)

    @torch.inference_mode()
    def step(self) -> Progress:
        """One forward pass, if anybody runs; what is new since the last."""
        self._end_interrupted()
        self._let_in_prepared()
        batch, admitted = self._scheduler.schedule()
        self._welcome(admitted)
        if batch is None and self._flight is None:
            self._constraints.pause()
        else:
            started = time.monotonic()
            self._fly(batch)
            self._step_seconds += time.monotonic() - started
        return self._telling.progress(self._scheduler.running)

    def stats(self) -> Stats:
        """What the loop is doing now."""
        scheduler = self._scheduler
        size = scheduler.blocks.size
        return Stats(
            running=len(self._slot_of),
            waiting=len(scheduler.waiting),
            steps=self._steps,
            generated_tokens=self._generated,
            prefill_tokens=self._prefilled,
            preemptions=scheduler.preemptions,
            kv_used=scheduler.blocks.used * size,
            kv_total=scheduler.blocks.count * size,
            step_seconds=self._step_seconds,
            queue_seconds=self._queue_seconds,
            started=self._started,
        )

    def _end_interrupted(self) -> None:
        now = time.monotonic()
        reasons = self._interrupted
        self._interrupted = {}
        taken = np.fromiter(self._slot_of.values(), np.int32, len(self._slot_of))
        for slot in self._slots.past_deadline(taken, now).tolist():
            reasons.setdefault(int(self._slots.keys[slot]), FinishReason.DEADLINE)
        if now >= self._earliest:
            reasons = {**dict.fromkeys(self._late(now), FinishReason.DEADLINE), **reasons}
        for key, reason in reasons.items():
            if key in self._scheduler.waiting:
                self._end_waiting(End(key, reason, prefilled=False))
            else:
                self._end([self._slot_of[key]], reason)

    def _late(self, now: float) -> list[int]:
        """Who waits past its deadline; and when to look next."""
        waiting = self._scheduler.waiting.values()
        timed = [(job.deadline, job.key) for job in waiting if job.deadline is not None]
        self._earliest = min((at for at, _ in timed if at > now), default=float("inf"))
        return [key for at, key in timed if at <= now]

    def _let_in_prepared(self) -> None:
        """Whose grammar is ready need not be held any more."""
        for key, error in self._constraints.prepared():
            self._scheduler.held.remove(key)
            if error is not None:
                self._end_waiting(End(key, None, prefilled=False, error=error))

    def _end_waiting(self, end: End) -> None:
        del self._scheduler.waiting[end.key], self._arrived[end.key]
        self._scheduler.held.discard(end.key)
        self._constraints.forget(end.key)
        self._telling.end_unseen(end)

    def _welcome(self, admitted: list[tuple[int, Job]]) -> None:
        now = time.monotonic()
        for slot, job in admitted:
            self._slot_of[job.key] = slot
            self._sampler.admit(slot, job.sampling, job.prompt)
            self._constraints.admit(slot, job.key)
            if job.sampling.stop_token_ids:
                self._stops[slot] = job.sampling.stop_token_ids
            self._queue_seconds += now - self._arrived.pop(job.key)
            self._started += 1

    def _fly(self, batch: Batch | None) -> None:
        """Begin a step, then hear of the one before; or of this one, too."""
        before, self._flight = self._flight, None
        if batch is not None:
            self._flight = self._begin(batch)
            self._steps += 1
        self._land(before)
        # What a schema allows next depends on the token before.
        if not self._ahead or self._constraints.active:
            landing, self._flight = self._flight, None
            self._land(landing)

    def _begin(self, batch: Batch) -> Flight | None:
        state, slots = self._slots, batch.wanted_slots
        positions = state.length[slots] - state.prompt[slots]
        try:
            logits = self._runner.run(batch, self._sampler.newest)
            allowed = self._constraints.apply(logits, slots)
            choice = self._sampler.choose(allowed, slots, positions, told=logits)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._make_room(batch)
            return None
        self._scheduler.had_room()
        decoding = (np.diff(batch.starts) == 1) & state.begun[batch.slots]
        self._prefilled += len(batch.tokens) - int(decoding.sum())
        state.begun[batch.slots] = True
        self._scheduler.computed(batch)
        state.expect(slots)
        return Flight(slots, state.keys[slots], choice)

    def _make_room(self, batch: Batch) -> None:
        """There was no memory for this pass: those to come are half as large. Raises MemoryGone."""
        rows, tokens = len(batch.slots), len(batch.tokens)
        log.warning("engine.out_of_memory", rows=rows, tokens=tokens)
        if tokens == 1:
            raise MemoryGone
        self._scheduler.lacked_room(batch)

    def _land(self, flight: Flight | None) -> None:
        """Give everybody who is still here its next token, and let those that are done leave."""
        if flight is None:
            return
        chosen = flight.choice.known()
        rows = np.flatnonzero(self._slots.keys[flight.slots] == flight.keys)
        slots, tokens = flight.slots[rows], chosen.tokens[rows]
        broken = tokens < 0
        over = np.isin(tokens, self._end_tokens)
        for row, slot in enumerate(slots.tolist() if self._stops else ()):
            over[row] |= int(tokens[row]) in self._stops.get(slot, ())
        going = ~(broken | over)
        whole, failed = self._constraints.accept(slots[going], tokens[going])
        over[going] = whole
        going &= ~np.isin(slots, list(failed))
        self._slots.learn(slots[going], tokens[going])
        self._generated += int(going.sum())
        for row in rows[going].tolist() if chosen.logprobs else ():
            if row in chosen.logprobs:
                self._telling.logprobs(int(flight.slots[row]), chosen.logprobs[row])
        full = going & ~over & (self._slots.known(slots) >= self._slots.end[slots])
        self._end(slots[over].tolist(), FinishReason.STOP)
        self._end(slots[full].tolist(), FinishReason.LENGTH)
        self._fail(slots[broken], NOT_A_NUMBER)
        for slot, message in failed.items():
            self._fail(np.array([slot]), message)

    def _end(self, slots: list[int], reason: FinishReason) -> None:
        for slot in slots:
            begun = bool(self._slots.begun[slot])
            self._leave(slot, End(int(self._slots.keys[slot]), reason, prefilled=begun))

    def _fail(self, slots: Ids, message: str) -> None:
        for slot in slots.tolist():
            end = End(int(self._slots.keys[slot]), None, prefilled=True, error=message)
            self._leave(slot, end)

    def _leave(self, slot: int, end: End) -> None:
        del self._slot_of[end.key]
        self._slots.expect_no_more(slot)
        self._stops.pop(slot, None)
        self._sampler.release(slot)
        self._constraints.release(slot)
        self._telling.end(slot, end)
        self._scheduler.leave(slot)
