"""Use, memory and temperature of the GPUs that a worker may use, by NVML; nothing where there are
none.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import structlog

from app.config import Settings

Figures = dict[str, str | float]

# Of NVML's errors (nvml.h): no answer to this one question, but that the GPU answers none.
_LOST = {15, 16, 999}  # it is lost, it wants a reset, and "unknown"

log = structlog.get_logger(__name__)


class Gpus:
    """Asks the driver now and then, in a thread of its own: one that hangs, as with a GPU that fell
    off the bus, must not stop the heartbeat.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._found: list[Figures] = []
        self._found_at = 0.0

    def start(self) -> None:
        """Begin to ask, if there is anything to ask."""
        if self._settings.device != "cpu":
            threading.Thread(target=self._watch, name="gpus", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopping.set()

    def figures(self) -> list[Figures]:
        """Of each GPU its ``name``, whether it is ``up`` (1, or 0 when it is lost), and what the
        driver knows of ``utilization`` (0 to 1), ``memory_used`` and ``memory_total`` (bytes) and
        ``temperature`` (degrees Celsius).
        """
        fresh = time.monotonic() < self._found_at + 4 * self._settings.heartbeat_seconds
        return self._found if fresh else []

    def _watch(self) -> None:
        nvml = _nvml()
        if nvml is None:
            return
        handles = _handles(nvml, self._settings.cuda_visible_devices)
        while handles and not self._stopping.is_set():
            found = [_figures(nvml, name, handle) for name, handle in handles.items()]
            self._tell_lost(found)
            self._found, self._found_at = found, time.monotonic()
            self._stopping.wait(self._settings.heartbeat_seconds)

    def _tell_lost(self, found: list[Figures]) -> None:
        known = {each["name"] for each in self._found if not each["up"]}
        for each in found:
            if not each["up"] and each["name"] not in known:
                log.error("gpu_lost", gpu=each["name"], reason="The driver cannot reach it.")


def visible(settings: Settings) -> list[str]:
    """The names of the GPUs that CUDA_VISIBLE_DEVICES leaves visible; none without a driver."""
    nvml = _nvml()
    return [] if nvml is None else list(_handles(nvml, settings.cuda_visible_devices))


def _nvml() -> Any | None:
    try:
        import pynvml  # only the extra "engine" has it
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver
        return None
    return pynvml


def _handles(nvml: Any, visible: str | None) -> dict[str, Any]:
    """By number or UUID, as in CUDA_VISIBLE_DEVICES. NVML numbers GPUs by PCI bus, as CUDA does
    with CUDA_DEVICE_ORDER=PCI_BUS_ID, and where they are all alike.
    """
    if visible is None:
        names = [str(number) for number in range(nvml.nvmlDeviceGetCount())]
    else:
        names = [name.strip() for name in visible.split(",") if name.strip()]
    handles = {}
    for name in names:
        with suppress(nvml.NVMLError):
            handles[name] = (
                nvml.nvmlDeviceGetHandleByIndex(int(name))
                if name.isdecimal()
                else nvml.nvmlDeviceGetHandleByUUID(name)
            )
    return handles


def _figures(nvml: Any, name: str, handle: Any) -> Figures:
    """Without those that the GPU does not know, as a part of one (MIG) may not."""
    figures: Figures = {"name": name, "up": 1}
    with _noting(nvml, figures):
        figures["utilization"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    with _noting(nvml, figures):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        figures |= {"memory_used": memory.used, "memory_total": memory.total}
    with _noting(nvml, figures):
        # Its successor, nvmlDeviceGetTemperatureV, is unknown to drivers of 2024.
        figures["temperature"] = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
    return figures


@contextmanager
def _noting(nvml: Any, figures: Figures) -> Iterator[None]:
    """Let a question go unanswered, and note if the GPU is lost."""
    try:
        yield
    except nvml.NVMLError as error:
        if error.value in _LOST:
            figures["up"] = 0
