"""Faults in a row, each put right after a moment; several parts may be down together.

All of it happens in the main thread, which Linux ties the started processes to.
"""

import random
import time
from collections import Counter

from scripts.benching.notes import Notes
from scripts.breaking.actor import Actor
from scripts.breaking.faults import Fault, Repair, deck
from scripts.breaking.stage import Stage

PAUSE_SECONDS = (0.5, 3.5)  # between two faults
POLL_SECONDS = 0.05
SUPERVISOR_SECONDS = 1.0  # until a part that ended by itself is started again


class Storm:
    """Draws faults from the deck, strikes and repairs."""

    def __init__(self, stage: Stage, chance: random.Random, notes: Notes) -> None:
        self.struck: Counter[str] = Counter()
        self._stage = stage
        self._chance = chance
        self._notes = notes
        self._deck: list[Fault] = []
        self._repairs: dict[str, tuple[float, Repair]] = {}  # by victim
        self._began = time.monotonic()

    def rage(self, *, first: float, until: float) -> None:
        """From the first fault to the end of the load."""
        self._began, due = time.monotonic(), first
        while (now := time.monotonic()) < until:
            self._repair(now)
            self._tend()
            if now >= due:
                due = now + self._strike()
            time.sleep(POLL_SECONDS)

    def calm(self) -> None:
        """Put everything right that is still broken."""
        self._repair(float("inf"))
        for name in ("postgres", "valkey", "api"):  # the others show by what they do
            self._stage.actors[name].wait_until_ready()

    def _strike(self) -> float:
        """The next fault, unless its victim is down; returns the pause after it."""
        if not self._deck:
            self._deck = deck(self._stage, self._chance)
        fault = self._deck.pop()
        # Drawn in any case, so that a seed means the same whatever the machine's speed.
        seconds, pause = self._chance.uniform(*fault.seconds), self._chance.uniform(*PAUSE_SECONDS)
        if fault.victim in self._repairs or not self._ready(self._stage.actors[fault.victim]):
            return 0
        repair = fault.strike()
        self.struck[fault.name] += 1
        self._say(f"{fault.name}{f', for {seconds:.1f} s' if repair else ''}")
        if repair is not None:
            self._repairs[fault.victim] = (time.monotonic() + seconds, repair)
        return pause

    def _ready(self, actor: Actor) -> bool:
        """Servers are asked; the others may as well be hit while they start."""
        return actor.alive and (actor.name not in {"postgres", "valkey"} or actor.part.ready())

    def _repair(self, now: float) -> None:
        for victim, (due, repair) in list(self._repairs.items()):
            if due <= now:
                repair()
                del self._repairs[victim]

    def _tend(self) -> None:
        """Start what ended without our doing, as a supervisor would."""
        for actor in self._stage.actors.values():
            if (how := actor.obituary()) is not None:
                self._stage.obituaries.append(how)
                self._say(how)
                self._repairs[actor.name] = (time.monotonic() + SUPERVISOR_SECONDS, actor.start)

    def _say(self, sentence: str) -> None:
        self._notes.say(f"{time.monotonic() - self._began:7.1f} s  {sentence}")
