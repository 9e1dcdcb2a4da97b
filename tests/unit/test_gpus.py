"""What a worker reads of its GPUs, from a stand-in for NVIDIA's library."""
# ruff: noqa: N802  (the names are NVIDIA's)

import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import structlog

from app.config import Settings
from workers.gpus import Figures, Gpus, visible

GIB = 1 << 30


class NVMLError(Exception):
    """The library's own base of errors; see nvml.h for the numbers."""

    def __init__(self, value: int = 3) -> None:
        super().__init__(value)
        self.value = value


class Nvml(ModuleType):
    """As much of pynvml as is used, with two GPUs; ``missing`` functions fail like the driver's."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.missing: set[str] = set()
        self.code = 3  # not supported
        self.asked: Callable[[], object] = lambda: None

    def _ask(self, name: str) -> None:
        if name in self.missing:
            raise NVMLError(self.code)

    def nvmlInit(self) -> None:
        self._ask("init")

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if not 0 <= index < 2:
            raise NVMLError
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if uuid != "GPU-b":
            raise NVMLError
        return 1

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        self.asked()
        self._ask("utilization")
        return SimpleNamespace(gpu=25 * (1 + handle))

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        self._ask("memory")
        return SimpleNamespace(used=handle * GIB, total=80 * GIB)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        self._ask("temperature")
        return 40 + handle


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    """The library, there in place of the real one."""
    library = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


def watching() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "gpus"}


def figures(nvml: Nvml, **settings: Any) -> list[Figures]:
    """What a worker with these settings reports after its first look."""
    before = watching()
    gpus = Gpus(Settings(heartbeat_seconds=60, **settings))
    gpus.start()
    threads = watching() - before
    while any(each.is_alive() for each in threads) and not gpus.figures():
        time.sleep(0.01)
    found = gpus.figures()
    gpus.stop()
    for each in threads:
        each.join()
    return found


FIRST = {
    "name": "0",
    "up": 1,
    "utilization": 0.25,
    "memory_used": 0,
    "memory_total": 80 * GIB,
    "temperature": 40,
}
SECOND = {**FIRST, "name": "1", "utilization": 0.5, "memory_used": GIB, "temperature": 41}


def test_all_gpus_are_read_where_the_environment_names_none(nvml: Nvml) -> None:
    assert figures(nvml) == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("1", [SECOND]),
        (" 1 , 0 ", [SECOND, FIRST]),
        ("GPU-b", [{**SECOND, "name": "GPU-b"}]),
        ("7,GPU-x,0", [FIRST]),
        ("", []),
        ("-1", []),
    ],
)
def test_only_those_that_cuda_sees_are_read(nvml: Nvml, visible: str, found: list[Figures]) -> None:
    assert figures(nvml, cuda_visible_devices=visible) == found


def test_what_a_gpu_does_not_know_is_left_out(nvml: Nvml) -> None:
    nvml.missing = {"utilization", "temperature"}
    memory = {"name": "0", "up": 1, "memory_used": 0, "memory_total": 80 * GIB}
    assert figures(nvml, cuda_visible_devices="0") == [memory]


@pytest.mark.parametrize("code", [15, 16, 999], ids=["lost", "wants a reset", "unknown"])
def test_a_gpu_that_is_lost_is_down_and_the_log_says_so_once(nvml: Nvml, code: int) -> None:
    nvml.missing, nvml.code = {"utilization", "memory", "temperature"}, code
    asked = threading.Event()
    with structlog.testing.capture_logs() as logs:
        gpus = Gpus(Settings(heartbeat_seconds=0.01, cuda_visible_devices="0"))
        nvml.asked = lambda: asked.set() if gpus.figures() else None
        gpus.start()
        assert asked.wait(30)  # for the second time
        assert gpus.figures() == [{"name": "0", "up": 0}]
        gpus.stop()
    assert [(each["event"], each["gpu"]) for each in logs] == [("gpu_lost", "0")]


def test_the_visible_gpus_are_named(nvml: Nvml) -> None:
    assert visible(Settings(cuda_visible_devices=None)) == ["0", "1"]
    assert visible(Settings(cuda_visible_devices="GPU-b")) == ["GPU-b"]
    nvml.missing = {"init"}
    assert visible(Settings(cuda_visible_devices=None)) == []


def test_without_a_driver_there_is_nothing_and_no_word_of_it(
    nvml: Nvml, caplog: pytest.LogCaptureFixture
) -> None:
    nvml.missing = {"init"}
    assert figures(nvml) == []
    assert caplog.records == []


def test_without_the_library_there_is_nothing_and_no_word_of_it(
    monkeypatch: pytest.MonkeyPatch, nvml: Nvml, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert figures(nvml) == []
    assert caplog.records == []


def test_a_worker_that_runs_its_model_on_the_cpu_reads_no_gpu(nvml: Nvml) -> None:
    assert figures(nvml, device="cpu") == []


def test_a_driver_that_hangs_stops_nobody_and_its_last_words_grow_old(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering, asked_again, goes_on = threading.Event(), threading.Event(), threading.Event()

    def hang(handle: int, sensor: int) -> int:
        if answering.is_set():
            asked_again.set()
            goes_on.wait()
        answering.set()
        return 40

    monkeypatch.setattr(nvml, "nvmlDeviceGetTemperature", hang)
    gpus = Gpus(Settings(heartbeat_seconds=0.01, cuda_visible_devices="0"))
    gpus.start()
    assert asked_again.wait(30)
    while gpus.figures():
        time.sleep(0.01)
    gpus.stop()
    goes_on.set()
