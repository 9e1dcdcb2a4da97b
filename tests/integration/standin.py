"""A loop without a model, for the process of the native engine, and a tokenizer of characters.

It answers with the prompt, over and over: "abc" with a limit of 5 gives "abcab". What a prompt
begins with can be its fate: see FATES.
"""

import os
import signal
import time
from collections import OrderedDict, deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from app.errors import ModelLoadFailed, UnknownArchitecture
from workers.engines.base import FinishReason, Stats
from workers.engines.breakdown import MemoryGone
from workers.engines.native import wire

KILLS, RAISES, HANGS, LEAVES, FALLS, STARVES = "☠", "!", "…", "→", "⚡", "∅"
FATES = {
    ord(KILLS): lambda: os.kill(os.getpid(), signal.SIGKILL),
    ord(RAISES): lambda: 1 / 0,
    ord(HANGS): lambda: time.sleep(3600),
    ord(LEAVES): lambda: os._exit(3),
    ord(STARVES): lambda: _raise(MemoryGone()),
    ord(FALLS): lambda: _fall("unspecified launch failure\nCUDA kernel errors might come later"),
}


def build(**how: float) -> "StandIn":
    """The factory of a process's loop."""
    return StandIn(**how)


def refuse() -> None:
    raise ModelLoadFailed("The folder /nowhere does not exist.")


def not_know() -> None:
    raise UnknownArchitecture("The native engine has no forward for models of kind x.")


def crash() -> None:
    raise ValueError("what no operator should read")


def vanish() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(error: Exception) -> None:
    raise error


def _fall(how: str) -> None:
    """As torch says that a GPU is gone."""
    raise RuntimeError(f"CUDA error: {how}")


class StandIn:
    """One token of each running request a step, which takes ``step_seconds``."""

    def __init__(
        self,
        *,
        kv_tokens: int = 1000,
        slots: int = 8,
        step_seconds: float = 0.0,
        alone: str = "",
        lost: str = "",
    ) -> None:
        """``alone`` names a file that the first of all processes makes, and later ones die of;
        ``lost`` one after which there is no GPU any more.
        """
        if alone and _is_there(alone):
            vanish()
        if lost and _is_there(lost):
            _fall("no CUDA-capable device is detected")
        self.kv_tokens = kv_tokens
        self.refused: dict[str, str] = {}
        self._slots = slots
        self._seconds = step_seconds
        self._waiting: OrderedDict[int, wire.Job] = OrderedDict()
        self._running: dict[int, wire.Job] = {}
        self._made: dict[int, int] = {}
        self._told: dict[int, int] = {}
        self._ends: deque[wire.End] = deque()
        self._steps = self._generated = self._started = 0

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running or self._ends)

    def submit(self, job: wire.Job) -> None:
        self._waiting[job.key] = job

    def cancel(self, key: int, reason: FinishReason) -> None:
        if self._waiting.pop(key, None):
            self._ends.append(wire.End(key, reason, prefilled=False))
        elif key in self._running:
            self._ends.append(wire.End(key, reason, prefilled=True))

    def stream(self, key: int, every: int) -> None:
        for jobs in (self._waiting, self._running):
            if key in jobs:
                jobs[key] = replace(jobs[key], every=every)

    def step(self) -> wire.Progress:
        self._end_late()
        self._admit()
        time.sleep(self._seconds)
        self._steps += 1
        over = {end.key for end in self._ends}
        for key, job in self._running.items():
            if job.prompt[0] in FATES:
                FATES[int(job.prompt[0])]()
            if key not in over:
                self._made[key] += 1
                self._generated += 1
                if self._made[key] == job.limit:
                    self._ends.append(wire.End(key, FinishReason.LENGTH, prefilled=True))
        return self._progress()

    def stats(self) -> Stats:
        return Stats(
            running=len(self._running),
            waiting=len(self._waiting),
            steps=self._steps,
            generated_tokens=self._generated,
            started=self._started,
        )

    def _end_late(self) -> None:
        now = time.monotonic()
        for key, job in [*self._waiting.items(), *self._running.items()]:
            if job.deadline is not None and job.deadline <= now:
                self.cancel(key, FinishReason.DEADLINE)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._slots:
            key, job = self._waiting.popitem(last=False)
            self._running[key], self._made[key], self._told[key] = job, 0, 0
            self._started += 1

    def _progress(self) -> wire.Progress:
        ends = list(self._ends)
        self._ends.clear()
        over = {end.key for end in ends}
        groups = {
            key: self._fresh(key)
            for key, job in self._running.items()
            if key in over or (job.every and self._made[key] - self._told[key] >= job.every)
        }
        groups = {key: fresh for key, fresh in groups.items() if len(fresh)}
        told = wire.Progress(
            keys=np.array(list(groups), np.int64),
            counts=np.array([len(each) for each in groups.values()], np.int32),
            tokens=np.concatenate([np.zeros(0, np.int32), *groups.values()]),
            ends=ends,
            logprobs={
                key: _logprobs(fresh)
                for key, fresh in groups.items()
                if self._running[key].sampling.logprobs
            },
        )
        for key in groups:
            self._told[key] = self._made[key]
        for key in over:
            self._running.pop(key, None)
        return told

    def _fresh(self, key: int) -> wire.Ids:
        prompt = self._running[key].prompt
        return prompt[np.arange(self._told[key], self._made[key]) % len(prompt)]


def _logprobs(tokens: wire.Ids) -> wire.Logprobs:
    """Made up from the number of each character; the likeliest five are it and the next four."""
    top = np.array([[token + more for more in range(5)] for token in tokens.tolist()], np.int32)
    return wire.Logprobs(
        chosen=-tokens.astype(np.float32), top_ids=top, top=-top.astype(np.float32)
    )


def _is_there(path: str) -> bool:
    """Whether somebody made this file before us."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return True
    return False


class Characters:
    """A tokenizer: one character, one token."""

    chat_template = "a template"

    def __call__(self, text: str) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[ord(each) for each in text])

    def apply_chat_template(self, messages: list[dict[str, str]], **_: object) -> list[int]:
        return [ord(each) for message in messages for each in message["content"]]

    def decode(self, tokens: list[int], **_: object) -> str:
        return "".join(map(chr, tokens))


class Broken(Characters):
    """A tokenizer that cannot read its own tokens."""

    def decode(self, tokens: list[int], **_: object) -> str:
        if ord("#") in tokens:
            raise ValueError("what a customer wrote")
        return super().decode(tokens)
