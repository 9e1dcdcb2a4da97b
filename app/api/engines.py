"""What the engines of live workers say of themselves, for Prometheus and for the status.

Their sums begin anew with the worker's process, so they are told worker by worker.
"""

from collections.abc import Iterable, Mapping

from prometheus_client.core import InfoMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric

from app.api.families import Samples, counter, gauge
from app.api.payloads import EngineDocument
from app.fleet.presence import EnginePresence

Engines = Mapping[str, list[EnginePresence]]  # by model

# Kind, name, text, and which of the figures (see ``workers.engines.base.Stats``).
_FIGURES = (
    (gauge, "running", "Requests decoded together: the batch size.", "running"),
    (gauge, "slots", "Requests decoded together at most.", "slots"),
    (gauge, "waiting", "Requests in the engine that have no slot yet.", "waiting"),
    (gauge, "kv_used_tokens", "Tokens that the KV memory in use has room for.", "kv_used"),
    (gauge, "kv_capacity_tokens", "Tokens that all KV memory has room for.", "kv_total"),
    (counter, "prefill_tokens", "Prompt tokens, again after a preemption.", "prefill_tokens"),
    (counter, "generated_tokens", "Completion tokens.", "generated_tokens"),
    (counter, "preemptions", "Requests put back for lack of KV memory.", "preemptions"),
    (counter, "restarts", "Restarts of the engine's process.", "restarts"),
)
# Name, text, and which figures count something and sum up its seconds.
_SUMMARIES = (
    ("step_seconds", "Time of a forward pass.", "steps", "step_seconds"),
    ("queue_seconds", "Wait of a request for its first step.", "started", "queue_seconds"),
)
_GPU_FIGURES = (
    ("up", "Whether the driver reaches the GPU: 0 when it is lost.", "up"),
    ("utilization_ratio", "Share of the time in which the GPU was busy.", "utilization"),
    ("memory_used_bytes", "Memory of the GPU in use, by whomever.", "memory_used"),
    ("memory_capacity_bytes", "Memory of the GPU.", "memory_total"),
    ("temperature_celsius", "Temperature of the GPU.", "temperature"),
)
_LABELS = ("model", "worker")


def families(engines: Engines) -> list[Metric]:
    """Everything there is to say, by model and worker, and what a GPU knows of itself by GPU."""
    found = [
        kind(f"gptqueue_engine_{name}", text, labels=_LABELS, samples=_samples(engines, figure))
        for kind, name, text, figure in _FIGURES
    ]
    found += [_summary(engines, *summary) for summary in _SUMMARIES]
    found.append(_names(engines))
    for name, text, figure in _GPU_FIGURES:
        if samples := _of_gpus(engines, figure):
            labels = (*_LABELS, "gpu")
            found.append(gauge(f"gptqueue_gpu_{name}", text, labels=labels, samples=samples))
    return found


def document(engine: EnginePresence) -> EngineDocument:
    """The few figures that the status shows."""
    return EngineDocument(
        worker=engine.worker,
        engine=engine.figures.get("name"),
        restarts=engine.figures.get("restarts", 0),
        kv_used_tokens=engine.figures.get("kv_used", 0),
        kv_capacity_tokens=engine.figures.get("kv_total", 0),
        problem=engine.figures.get("problem") or None,
    )


def _labelled(engines: Engines) -> Iterable[tuple[tuple[str, str], EnginePresence]]:
    return [((model, each.worker), each) for model, some in engines.items() for each in some]


def _names(engines: Engines) -> Metric:
    family = InfoMetricFamily("gptqueue_engine", "Which engine really runs.", labels=_LABELS)
    for labels, engine in _labelled(engines):
        if name := engine.figures.get("name"):
            family.add_metric(labels, {"engine": name})
    return family


def _samples(engines: Engines, figure: str) -> Samples:
    return [(labels, engine.figures.get(figure, 0)) for labels, engine in _labelled(engines)]


def _summary(engines: Engines, name: str, text: str, count: str, seconds: str) -> Metric:
    family = SummaryMetricFamily(f"gptqueue_engine_{name}", text, labels=_LABELS)
    for labels, engine in _labelled(engines):
        figures = engine.figures
        family.add_metric(labels, figures.get(count, 0), figures.get(seconds, 0))
    return family


def _of_gpus(engines: Engines, figure: str) -> Samples:
    return [
        ((*labels, gpu["name"]), gpu[figure])
        for labels, engine in _labelled(engines)
        for gpu in engine.figures.get("gpus", ())
        if figure in gpu
    ]
