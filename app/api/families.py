"""Figures as the families that Prometheus reads."""

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

Samples = Iterable[tuple[Sequence[str], float]]  # the values of the labels, and the figure


def gauge(name: str, text: str, *, labels: Sequence[str], samples: Samples) -> Metric:
    """What can fall again."""
    return _filled(GaugeMetricFamily(name, text, labels=labels), samples)


def counter(name: str, text: str, *, labels: Sequence[str], samples: Samples) -> Metric:
    """What only grows; Prometheus sees its name with ``_total``."""
    return _filled(CounterMetricFamily(name, text, labels=labels), samples)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, samples: Samples) -> Metric:
    for labels, value in samples:
        family.add_metric(labels, value)
    return family
