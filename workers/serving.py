"""One model held by this process, with its adapters: their engine, and the jobs that run in it."""

import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import structlog

from app import catalog
from app.config import Settings
from app.db import Database
from app.errors import DatabaseUnavailable, EngineClosed, EngineLost, ModelLoadFailed
from app.fleet import presence
from app.fleet.tables import WorkerState
from app.group import Group
from app.jobs import claim
from app.jobs.claim import Claimed, Served
from app.jobs.transition import Lease
from workers import engines
from workers.engines.base import Engine, Generation, Message, Request, Sampling, Stats
from workers.gpus import Gpus
from workers.heartbeat import Heartbeat
from workers.streams import Streams
from workers.suspects import Suspects

log = structlog.get_logger(__name__)

_NEWEST = 0.2  # what the last job counts for in the mean of recent ones


@dataclass(frozen=True, slots=True)
class Identity:
    """Who serves what."""

    worker: str
    model: str
    version: str


class Serving:
    """Claims jobs of one model and its adapters, and runs them in their engine."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        identity: Identity,
        *,
        streams: Streams,
        adapters: Mapping[str, catalog.Model],
    ) -> None:
        """``identity`` names the model; ``adapters`` are those of it, by name."""
        self.identity = identity
        self._streams = streams
        self._adapters = adapters
        self._settings = settings
        self._database = database
        self._engine: Engine | None = None
        self.suspects = Suspects(slots=settings.engine_slots, max_attempts=settings.max_attempts)
        self._state, self._error = WorkerState.LOADING, ""
        self._refused_first: Mapping[str, str] = {}
        self._job_seconds: float | None = None
        self._claims: Group[None, Claimed | None] = Group(self._claim, gather=True)
        self._gpus = Gpus(settings)
        self.heartbeat = Heartbeat(settings, database, cancel=self._cancel, report=self._reports)

    def start(self, model: catalog.Model) -> None:
        """Load the model; raises ModelLoadFailed after reporting why."""
        self._gpus.start()
        self._look_back()
        self.heartbeat.start()
        log.info("model_loading", model=self.identity.model, version=self.identity.version)
        started = time.monotonic()
        try:
            self._engine = engines.load(
                self.identity.model,
                model,
                version=self.identity.version,
                settings=self._settings,
                publish=self._streams.publish,
                adapters=self._adapters,
            )
        except ModelLoadFailed as error:
            self._state, self._error = WorkerState.FAILED, error.message
            log.error("model_load_failed", model=self.identity.model, error=error.message)
            self._gpus.stop()
            self.heartbeat.stop()
            raise
        self._refused_first = self._engine.stats().refused
        self._state, self._error = WorkerState.READY, ""
        self.heartbeat.beat()
        seconds = round(time.monotonic() - started, 1)
        name = self._engine.name
        log.info("model_ready", model=self.identity.model, engine=name, seconds=seconds)
        for name, why in self._refused().items():
            log.error("adapter_refused", model=name, base=self.identity.model, error=why)

    def _look_back(self) -> None:
        """Say while the model is loaded, if it is so, that this worker did not stop by itself."""
        with suppress(DatabaseUnavailable), self._database.transaction() as session:
            if presence.has_died(session, self.identity.worker, self.identity.model):
                self._error = "The worker's process died, and is being started again."

    def close(self) -> None:
        """Stop the engine; what it was asked for raises EngineClosed, now and afterwards."""
        if self._state is not WorkerState.FAILED:  # else the reason is what operators want to read
            self._state = WorkerState.STOPPED
        if self._engine is not None:
            self._engine.close()

    def stop(self) -> None:
        """Stop the engine and say goodbye."""
        self.close()
        self._gpus.stop()
        self.heartbeat.stop()

    @property
    def closed(self) -> bool:
        """Whether the engine was stopped, or died for good."""
        return self._state in {WorkerState.STOPPED, WorkerState.FAILED}

    @property
    def failed(self) -> bool:
        """Whether the engine could not be loaded, or died for good."""
        return self._state is WorkerState.FAILED

    def ready(self) -> bool:
        """Whether the engine can take a job now. One that died for good stops this process."""
        assert self._engine is not None
        try:
            return self._engine.ready()
        except EngineClosed as error:
            if self._state is WorkerState.READY:
                self._stop_process(error)
            return False

    def _stop_process(self, died: EngineClosed) -> None:
        # This process can do no more; its supervisor starts another.
        self._state, self._error = WorkerState.FAILED, died.message
        log.critical("engine_died", model=self.identity.model, error=died.message)
        signal.raise_signal(signal.SIGTERM)

    @property
    def served(self) -> list[Served]:
        """The model, and the adapters that its engine serves."""
        refused = self._refused()
        adapters = {name: each for name, each in self._adapters.items() if name not in refused}
        return [
            (self.identity.model, self.identity.version),
            *((name, each.version) for name, each in adapters.items()),
        ]

    def claim_next(self) -> Claimed | None:
        """The next job of this model or its adapters, now ours, or None."""
        return self._claims.do(None)

    def _claim(self, callers: Sequence[None]) -> list[Claimed | Exception | None]:
        with self._database.transaction() as session:
            claimed = claim.claim(
                session,
                self.served,
                worker=self.identity.worker,
                lease_seconds=self._settings.lease_seconds,
                limit=len(callers),
                suspects=self.suspects.wanted,
            )
        return [*claimed, *[None] * (len(callers) - len(claimed))]

    def run(self, claimed: Claimed) -> Generation:
        """Generate and wait for it; raises what Engine.submit says."""
        assert self._engine is not None
        engine, lease = self._engine, claimed.lease
        request = _request(claimed, base=self.identity.model)
        try:
            began = time.monotonic()
            with self._streams.telling(lease, request.id, stream=engine.stream):
                future = engine.submit(request)
                self._streams.ask(lease, request.id)
                generation = future.result()
            self._took(time.monotonic() - began)
            return generation
        except (EngineClosed, EngineLost):
            self.ready()  # sees whether it died for good
            raise

    def _took(self, seconds: float) -> None:
        """Remember how long jobs take, the last ones above all."""
        before = seconds if self._job_seconds is None else self._job_seconds
        self._job_seconds = before + _NEWEST * (seconds - before)

    def _cancel(self, lease: Lease) -> None:
        if self._engine is not None:
            self._engine.cancel(_request_id(lease))

    def _reports(self) -> list[presence.Report]:
        own = self._report()
        return [own, *(self._report_of(name, own) for name in self._adapters)]

    def _report_of(self, adapter: str, own: presence.Report) -> presence.Report:
        version = self._adapters[adapter].version
        said = replace(own, model=adapter, version=version, engine=None)
        refused = self._refused().get(adapter)
        if refused is None:
            return said
        error = f"{adapter}, version {version}: {refused}"
        return replace(said, state=WorkerState.FAILED, error=error)

    def _refused(self) -> Mapping[str, str]:
        """Also who was refused at first only: its queue is not consumed until a restart."""
        now = self._engine.stats().refused if self._engine else {}
        return {**now, **self._refused_first}

    def _report(self) -> presence.Report:
        if self._state is WorkerState.READY:
            self.ready()  # also when no job comes, an engine that died for good ends the process
        engine = self._engine
        stats = engine.stats() if engine else None
        # An engine that starts again loads its model again.
        problem = stats.problem if stats and self._state is WorkerState.READY else ""
        return presence.Report(
            name=self.identity.worker,
            model=self.identity.model,
            version=self.identity.version,
            state=WorkerState.LOADING if problem else self._state,
            error=problem or self._error or None,
            slots=engine.slots if engine else 0,
            running=stats.running if stats else 0,
            engine=self._figures(engine, stats) if engine and stats else None,
        )

    def _figures(self, engine: Engine, stats: Stats) -> dict[str, Any]:
        return {
            "name": engine.name,
            **asdict(stats),
            "gpus": self._gpus.figures(),
            "job_seconds": self._job_seconds,
        }


def _request_id(lease: Lease) -> str:
    return f"{lease.job_id}:{lease.attempt}"


def _request(claimed: Claimed, *, base: str) -> Request:
    parameters = claimed.parameters
    messages = claimed.messages
    return Request(
        id=_request_id(claimed.lease),
        max_tokens=parameters["max_tokens"],
        prompt=claimed.prompt,
        messages=[Message(**each) for each in messages] if messages else None,
        sampling=_sampling(parameters),
        deadline=time.monotonic() + claimed.seconds_left,
        adapter=None if claimed.model == base else claimed.model,
    )


_SAMPLING = {each.name for each in fields(Sampling)}


def _sampling(parameters: Mapping[str, Any]) -> Sampling:
    """A job of an older version lacks the newer ones, which then are off."""
    known: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in parameters.items()
        if name in _SAMPLING
    }
    return Sampling(**known)
