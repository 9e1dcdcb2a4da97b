"""The Prometheus metrics, read from the database and the broker at each scrape.

So they are the same from every replica, and no process has to be asked before it ends.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from sqlalchemy.orm import Session

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
    family = GaugeMetricFamily(
        "gptqueue_queue_messages", "Messages in the model's queue.", labels=["model"]
    )
    for model, depth in depths.items():
        family.add_metric([model], depth)
    return family


def _workers(presence: dict[str, ModelPresence]) -> Metric:
    family = GaugeMetricFamily(
        "gptqueue_workers", "Generation workers by state.", labels=["model", "state"]
    )
    for model, there in presence.items():
        for state in WorkerState:
            family.add_metric([model, state.value], there.workers[state])
    return family


def _jobs(session: Session) -> list[Metric]:
    read: Counts = counts(session)
    jobs = GaugeMetricFamily("gptqueue_jobs", "Jobs by status.", labels=["model", "status"])
    for (model, status), number in read.jobs.items():
        jobs.add_metric([model, status], number)
    tokens = CounterMetricFamily(
        "gptqueue_tokens", "Tokens of ended jobs.", labels=["model", "direction"]
    )
    for (model, direction), number in read.tokens.items():
        tokens.add_metric([model, direction], number)
    deliveries = GaugeMetricFamily(
        "gptqueue_webhook_deliveries",
        "Webhook deliveries that are not through, by state.",
        labels=["state"],
    )
    for state, number in read.deliveries.items():
        deliveries.add_metric([state], number)
    disabled = GaugeMetricFamily(
        "gptqueue_webhook_endpoints_disabled",
        "Webhook endpoints that nothing is sent to any more, by reason.",
        labels=["reason"],
    )
    for reason, number in read.disabled_endpoints.items():
        disabled.add_metric([reason], number)
    charged = CounterMetricFamily(
        "gptqueue_charged_micros", "Charged so far, in micro-USD.", labels=["model"]
    )
    for model, micros in read.charged_micros.items():
        charged.add_metric([model], micros)
    discarded = CounterMetricFamily(
        "gptqueue_results_discarded",
        "Results of lost attempts, which came too late and changed nothing.",
        value=read.results_discarded,
    )
    return [jobs, tokens, deliveries, disabled, charged, discarded]
