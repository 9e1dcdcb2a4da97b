"""The native engine under random requests, cancels, deadlines and kills of its process.

``ENGINE_FUZZ_SECONDS`` is for how long, not counting the seconds in which the process is started
again: ``ENGINE_FUZZ_SECONDS=120 scripts/test tests/integration/test_native_fuzz.py``.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import structlog

from app.catalog import Version
from tests.integration import tiny
from tests.integration.storm import Client, Published
from workers.engines.base import Request
from workers.engines.native import wire
from workers.engines.native.engine import NativeEngine
from workers.engines.native.restarts import Patience

SECONDS = float(os.environ.get("ENGINE_FUZZ_SECONDS", "8"))
CLIENTS = 8
SLOTS = 6
CONTEXT = 160
BLOCKS = 9  # of 16 tokens: less than the context, so that requests give way and some never fit
TICK_SECONDS = 0.1
SECONDS_PER_KILL = 15
# A young process takes some 200 MiB more within a minute, half of it for oneDNN, which keeps code
# for each shape that it met. A leak of 10 kB a step exceeds this in a run of two minutes.
ALLOWANCE_BYTES = 256 << 20

log = structlog.get_logger(__name__)

pytestmark = pytest.mark.timeout(300 + 3 * SECONDS)


@pytest.fixture
def published() -> Published:
    """What was streamed, and its reader has not fetched."""
    return Published()


@pytest.fixture
def engine(tmp_path: Path, published: Published) -> Iterator[NativeEngine]:
    """A tiny model in a real process, with little KV memory."""
    tiny.llama().save_pretrained(tmp_path / "tiny")
    tiny.tokenizer().save_pretrained(tmp_path / "tiny")
    arguments = {
        "version": Version(source="tiny"),
        "models_dir": tmp_path,
        "device": "cpu",
        "context_length": CONTEXT,
        "slots": SLOTS,
        "blocks": BLOCKS,
    }
    engine = NativeEngine(
        wire.Load("tests.integration.faults:short_of_room", arguments),
        tokenizer=tiny.tokenizer(),
        context_length=CONTEXT,
        slots=SLOTS,
        stall_seconds=60,
        patience=Patience(first_seconds=0.01, most_seconds=0.05, deaths=1000),
        publish=published,
    )
    yield engine
    engine.close()


class Watch:
    """Kills the engine's process now and then, and looks at how much memory there is in use."""

    def __init__(self, engine: NativeEngine) -> None:
        self._engine = engine
        self._chance = random.Random(4)
        self.kills = max(1, int(SECONDS / SECONDS_PER_KILL))
        self.worker: list[int] = []  # resident bytes, one figure a tick
        self.process: list[int] = []

    def run(self) -> None:
        """For ``SECONDS`` of a process that works; the second half belongs to the last one."""
        due = sorted(self._chance.uniform(0.1, 0.5) * SECONDS for _ in range(self.kills))
        while len(self.worker) * TICK_SECONDS < SECONDS:
            time.sleep(TICK_SECONDS)
            process = self._engine._keeper.process
            if process is None:
                continue
            self.worker.append(psutil.Process().memory_info().rss)
            self.process.append(psutil.Process(process.pid).memory_info().rss)
            if due and len(self.worker) * TICK_SECONDS >= due[0]:
                due.pop(0)
                os.kill(process.pid, signal.SIGKILL)


def growth(figures: list[int]) -> int:
    """By how much the last of them exceeds the first quarter."""
    return figures[-1] - max(figures[: max(1, len(figures) // 4)])


def wait_until_idle(engine: NativeEngine) -> None:
    give_up = time.monotonic() + 60
    while not engine.ready() or engine.stats().kv_used:
        assert time.monotonic() < give_up, engine.stats()
        time.sleep(0.02)


def test_every_request_ends_once_and_all_memory_returns_whatever_comes(
    engine: NativeEngine, published: Published
) -> None:
    watch, over = Watch(engine), threading.Event()
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [Client(engine, published, number=number) for number in range(CLIENTS)]
        running = [threads.submit(client.run, over) for client in clients]
        try:
            watch.run()
        finally:
            over.set()
        ends = sum((each.result() for each in running), Counter[str]())
    wait_until_idle(engine)
    stats = engine.stats()
    grown = growth(watch.worker), growth(watch.process)
    mib = [each >> 20 for each in watch.process[:: max(1, len(watch.process) // 24)]]
    log.info("fuzz_over", ends=dict(ends), stats=stats, grown_bytes=grown, process_mib=mib)
    assert ends["EngineLost"] + ends["EngineClosed"] > 0
    assert ends["length"] > 0
    assert (stats.running, stats.waiting, stats.problem) == (0, 0, "")
    assert stats.restarts == watch.kills  # it died of nothing else
    assert not published.texts  # nothing was told after a request's end
    assert engine.submit(Request(id="one", prompt="the", max_tokens=1)).result(timeout=60)
    assert max(grown) < ALLOWANCE_BYTES
