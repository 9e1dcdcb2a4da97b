"""The Prometheus metrics, read from the database and the broker at each scrape.

So they are the same from every replica, and no process has to be asked before it ends.
"""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from sqlalchemy.orm import Session

from app.api import engines
from app.api.families import Samples, counter, gauge
from app.api.services import Services
from app.fleet.presence import ModelPresence
from app.fleet.tables import WorkerState
from app.jobs.counts import Counts, counts


def exposition(
    parts: Services,
    presence: dict[str, ModelPresence] | None,
    depths: dict[str, int] | None,
) -> bytes:
    """All metrics as text; ``presence`` and ``depths`` are None when their source is down."""
    found: list[Metric] = [
        _up("gptqueue_database_up", "PostgreSQL answers.", presence is not None),
        _up("gptqueue_broker_up", "The broker answers.", depths is not None),
    ]
    if depths is not None:
        found.append(_depths(depths))
    if presence is not None:
        found.append(_workers(presence))
        found += engines.families({model: there.engines for model, there in presence.items()})
        with parts.database.transaction() as session:
            found += _jobs(session)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Found(found))
    return generate_latest(registry)


class _Found:
    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


def _up(name: str, text: str, value: bool) -> Metric:
    return GaugeMetricFamily(name, text, value=int(value))


def _depths(depths: dict[str, int]) -> Metric:
    return gauge(
        "gptqueue_queue_messages",
        "Messages in the model's queue.",
        labels=("model",),
        samples=_by_one(depths),
    )


def _workers(presence: dict[str, ModelPresence]) -> Metric:
    return gauge(
        "gptqueue_workers",
        "Generation workers by state.",
        labels=("model", "state"),
        samples=(
            ((model, state.value), there.workers[state])
            for model, there in presence.items()
            for state in WorkerState
        ),
    )


def _jobs(session: Session) -> list[Metric]:
    read: Counts = counts(session)
    return [
        gauge(
            "gptqueue_jobs",
            "Jobs by status.",
            labels=("model", "status"),
            samples=read.jobs.items(),
        ),
        counter(
            "gptqueue_tokens",
            "Tokens of ended jobs.",
            labels=("model", "direction"),
            samples=read.tokens.items(),
        ),
        gauge(
            "gptqueue_webhook_deliveries",
            "Webhook deliveries that are not through, by state.",
            labels=("state",),
            samples=_by_one(read.deliveries),
        ),
        gauge(
            "gptqueue_webhook_endpoints_disabled",
            "Webhook endpoints that nothing is sent to any more, by reason.",
            labels=("reason",),
            samples=_by_one(read.disabled_endpoints),
        ),
        counter(
            "gptqueue_charged_micros",
            "Charged so far, in micro-USD.",
            labels=("model",),
            samples=_by_one(read.charged_micros),
        ),
        CounterMetricFamily(
            "gptqueue_results_discarded",
            "Results of lost attempts, which came too late and changed nothing.",
            value=read.results_discarded,
        ),
    ]


def _by_one(values: Mapping[str, int]) -> Samples:
    return (((label,), value) for label, value in values.items())
