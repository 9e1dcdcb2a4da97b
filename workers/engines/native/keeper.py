"""Starts the engine's process, hears it, and starts it again when it died."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing

import structlog

from app.errors import EngineClosed, ModelLoadFailed, UnknownArchitecture
from workers.engines.native import wire
from workers.engines.native.process import EngineProcess, ProcessDied
from workers.engines.native.restarts import Patience, Restarts

# The weights of a large model may come from a slow disk.
LOAD_SECONDS = 3600.0

log = structlog.get_logger(__name__)


class Keeper:
    """One thread, on whose life that of the process hangs.

    ``hear`` gets each message of the process and says whether it answered a request; ``busy`` says
    whether anything is in flight; ``lose`` is called with a sentence when the process has died.
    """

    def __init__(
        self,
        load: wire.Load,
        *,
        stall_seconds: float,
        patience: Patience,
        hear: Callable[[EngineProcess, wire.Progress], bool],
        busy: Callable[[], bool],
        lose: Callable[[str], None],
    ) -> None:
        """Waits until the model is loaded; raises ModelLoadFailed or UnknownArchitecture."""
        self._load = load
        self._stall_seconds = stall_seconds
        # Silence is counted in pulses: a machine that slept was not silent for long.
        self._pulse = min(1.0, stall_seconds / 4)
        self._hear, self._busy, self._lose = hear, busy, lose
        self._restarts = Restarts(patience)
        self.changed = threading.Condition()  # whoever uses ``process`` holds this lock
        self._closed = False
        self._silent_seconds = self._ready_at = 0.0
        self._served = False  # an answer, by the process of now
        self._loaded: Future[None] = Future()
        self.process: EngineProcess | None = None  # one that works; see ``changed``
        self.kv_tokens = 0
        self.refused: dict[str, str] = {}  # adapters, by the process of now
        self.problem = ""
        self._thread = threading.Thread(target=self._run, name="engine-keeper", daemon=True)
        self._thread.start()
        self._loaded.result()

    @property
    def restarts(self) -> int:
        """How often a process was started in the place of another."""
        return self._restarts.total

    def ready(self) -> bool:
        """Whether there is a process that works; raises EngineClosed if there never will be."""
        with self.changed:
            if self._closed:
                raise EngineClosed(self.problem or None)
            return self.process is not None

    def close(self) -> None:
        """Tell the process to end; ``join`` waits for it."""
        with self.changed:
            self._closed = True
            process, self.process = self.process, None
            self.changed.notify_all()
        if process is not None:
            process.say_close()

    def join(self) -> None:
        """Wait for the end, after ``close``."""
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._live():
                pass
        except Exception as error:
            # The first load failed, or a bug of ours: nobody may wait for a thread that is gone.
            if not self._loaded.done():
                self._loaded.set_exception(error)
                return
            log.exception("engine.keeper_failed")
            self._give_up("The worker can keep its engine no longer; the log says why.")

    def _live(self) -> bool:
        """One life of the process, and the pause behind it; whether there is to be another."""
        self._served, self._silent_seconds, self._ready_at = False, 0.0, time.monotonic()
        try:
            with closing(EngineProcess(self._load)) as process:
                self._begin(process, self._await_ready(process))
                try:
                    while not self._closed:
                        self._listen(process)
                except ProcessDied as death:
                    self._lose_all(str(death))  # before the process is waited for
                    raise
        except ProcessDied as death:
            if not self._loaded.done():  # it could not even be started
                raise ModelLoadFailed(str(death)) from death
            why = str(death)
        except ModelLoadFailed as failure:
            if not self._loaded.done():
                raise
            why, self._ready_at = failure.message, time.monotonic()
        return not self._closed and self._mourn(why)

    def _await_ready(self, process: EngineProcess) -> wire.Ready:
        give_up = time.monotonic() + LOAD_SECONDS
        try:
            while not self._closed and time.monotonic() < give_up:
                match process.receive(self._pulse):
                    case wire.Ready() as ready:
                        return ready
                    case wire.Failed(message, native):
                        raise (ModelLoadFailed if native else UnknownArchitecture)(message)
        except ProcessDied as death:
            raise ModelLoadFailed(f"{death} It was loading the model.") from death
        process.kill()
        raise ModelLoadFailed(f"The engine's process did not load in {LOAD_SECONDS:g} s.")

    def _begin(self, process: EngineProcess, ready: wire.Ready) -> None:
        log.info("engine.ready", pid=process.pid, kv_tokens=ready.kv_tokens)
        with self.changed:
            if self._closed:
                process.kill()
                return
            self.kv_tokens, self.refused = ready.kv_tokens, ready.refused
            self.process, self.problem = process, ""
        self._ready_at = time.monotonic()
        if not self._loaded.done():
            self._loaded.set_result(None)

    def _listen(self, process: EngineProcess) -> None:
        """Take a message, or see that none comes."""
        message = process.receive(self._pulse)
        if isinstance(message, wire.Crashed):
            raise ProcessDied(message.reason)
        if message is not None:
            self._silent_seconds = 0.0
            self._served |= self._hear(process, message)
            return
        self._silent_seconds = self._silent_seconds + self._pulse if self._busy() else 0.0
        if self._silent_seconds >= self._stall_seconds:
            process.kill()
            seconds = f"{self._stall_seconds:g} s"
            raise ProcessDied(f"The engine's process hung for {seconds} and was killed.")

    def _lose_all(self, why: str) -> None:
        with self.changed:
            self.process = None
            self.problem = f"{why} It is being started again."
        self._lose(why)

    def _mourn(self, why: str) -> bool:
        """The process died; after a pause, whether it is to be started again."""
        # A process that hangs, and is killed for it, did not work until then.
        ran_seconds = time.monotonic() - self._ready_at - self._silent_seconds
        pause = self._restarts.died(ran_seconds=ran_seconds, served=self._served)
        log.error("engine.died", reason=why, pause_seconds=pause)
        self._lose_all(why)
        if pause is None:
            self._give_up(f"{why} That happened again and again, so it is not started any more.")
            return False
        with self.changed:
            return not self.changed.wait_for(lambda: self._closed, timeout=pause)

    def _give_up(self, problem: str) -> None:
        with self.changed:
            self._closed, self.process = True, None
            self.problem = problem
        self._lose(problem)
