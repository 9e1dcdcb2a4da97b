"""Contestants: our own engines, asked as a worker asks them."""

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from app.catalog import Model, Version
from app.config import Settings
from app.errors import GPTQueueError
from scripts.benching.engine.work import Answer, Failed, Flight, Work
from workers import engines
from workers.engines.base import Delta, Generation, Publisher, Request, Sampling

CONTEXT_LENGTH = 2048


class Product:
    """An engine that ``workers.engines.load`` makes."""

    def __init__(self, engine: str, *, folder: Path, slots: int, device: str) -> None:
        """``engine`` is what a catalog calls it; raises Failed when it cannot be loaded."""
        try:
            self._engine = _loaded(
                {"source": str(folder), "engine": engine},
                settings=Settings(engine_slots=slots, device=device),
                publish=self._published,
            )
        except (GPTQueueError, ValueError) as error:
            raise Failed(f"The engine {engine} cannot be loaded: {error}") from error
        if not type(self._engine).__module__.startswith(f"{engines.__name__}.{engine}"):
            self._engine.close()
            raise Failed(f"The engine {engine} does not run this model here: another fell in.")

    def ask(self, work: Work) -> list[Answer]:
        """Submit each request at its moment."""
        self._flight = flight = Flight(work)
        for number, prompt in flight.departures():
            request = Request(
                id=str(number),
                max_tokens=work.tokens,
                prompt=prompt,
                sampling=Sampling(temperature=0),
                stream=work.stream,
            )
            future = self._engine.submit(request)
            future.add_done_callback(partial(_landed, flight, number))
        return flight.land()

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()

    def _published(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            self._flight.began(int(delta.request_id))


def _loaded(version: dict[str, str], *, settings: Settings, publish: Publisher) -> engines.Engine:
    model = Model(
        context_length=CONTEXT_LENGTH,
        input_price_micros=0,
        output_price_micros=0,
        version="1",
        versions={"1": Version.model_validate(version)},
    )
    return engines.load("bench", model, version="1", settings=settings, publish=publish)


def _landed(flight: Flight, number: int, future: "Future[Generation]") -> None:
    if error := future.exception():
        flight.failed(error)
    else:
        flight.ended(number, future.result().completion_tokens)
