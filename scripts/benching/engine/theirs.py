"""Contestant: transformers alone, with a model that takes long to load, and so only once."""

from pathlib import Path

from scripts.benching.engine.continuous import Continuous
from scripts.benching.engine.static import Static, loaded
from scripts.benching.engine.work import Answer, Work


class Theirs:
    """``generate`` for one request at a time, continuous batching from the first batch on."""

    def __init__(self, *, folder: Path, slots: int, device: str) -> None:
        """Load ``folder`` on ``device``; raises Failed."""
        self._model, self._tokenizer = loaded(folder, device)
        self._slots = slots
        self._static = Static(self._model, self._tokenizer)
        self._continuous: Continuous | None = None

    def ask(self, work: Work) -> list[Answer]:
        """See Contestant."""
        if self._continuous is None and work.in_flight == 1:
            return self._static.ask(work)
        if self._continuous is None:
            self._continuous = Continuous(self._model, self._tokenizer, slots=self._slots)
        return self._continuous.ask(work)

    def close(self) -> None:
        """Stop the manager, if there is one."""
        if self._continuous is not None:
            self._continuous.close()
