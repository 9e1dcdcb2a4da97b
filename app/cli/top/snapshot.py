"""What status and metrics say at one moment, model by model."""

import time
from dataclasses import dataclass, field
from typing import Any

from app.cli.client import Client, Json, Unreachable, read
from app.cli.problem import Problem

_FIGURES = {
    "running": "gptqueue_engine_running",
    "slots": "gptqueue_engine_slots",
    "in_engine": "gptqueue_engine_waiting",
    "kv_used": "gptqueue_engine_kv_used_tokens",
    "kv_capacity": "gptqueue_engine_kv_capacity_tokens",
    "restarts": "gptqueue_engine_restarts_total",
}
_GENERATED = "gptqueue_engine_generated_tokens_total"
_JOBS = "gptqueue_jobs"

Worker = tuple[str, str]  # a model, and one of its workers


@dataclass(slots=True)
class ModelNow:
    """One model: messages in its queue, jobs that wait and run, workers by state, and the sums of
    what its engines say.
    """

    name: str
    queue_depth: int | None
    workers: dict[str, int]
    problems: list[str]
    queued: int = 0
    figures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_FIGURES, 0))


@dataclass(slots=True)
class Snapshot:
    """Everything, and when it was asked; ``generated`` are the tokens of each worker so far."""

    ready: bool
    database: bool
    broker: bool
    models: list[ModelNow]
    has_metrics: bool = False
    generated: dict[Worker, int] = field(default_factory=dict)
    at: float = field(default_factory=time.monotonic)


def take(client: Client, metrics_token: str) -> Snapshot:
    """Ask now; raises Problem when the API does not answer."""
    status = _status(client)
    models = [_model(name, said) for name, said in status["models"].items()]
    found = Snapshot(status["ready"], status["database"]["ok"], status["broker"]["ok"], models)
    text = _metrics(client, metrics_token)
    if text is not None:
        _add(found, text)
    return found


def _status(client: Client) -> Json:
    try:
        answer = client.send("GET", "/status")
    except Unreachable as error:
        raise Problem(f"{client.url}: {error} Is the API running?") from None
    if answer.status_code == 503 and "models" in answer.text:
        document: Json = answer.json()  # not ready, which is an answer too
        return document
    return read(answer)


def _model(name: str, said: Json) -> ModelNow:
    ailing = [each["problem"] for each in said["engines"] if each["problem"]]
    problems = list(dict.fromkeys([*said["errors"], *ailing]))
    return ModelNow(name, said["queue_depth"], said["workers"], problems)


def _metrics(client: Client, token: str) -> str | None:
    """The metrics, or None where they want another token or the database is away."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = client.send("GET", "/metrics", headers=headers)
    except Unreachable:
        return None
    return answer.text if answer.status_code == 200 else None


def _add(found: Snapshot, text: str) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    names = {metric: figure for figure, metric in _FIGURES.items()}
    models = {model.name: model for model in found.models}
    found.has_metrics = True
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            model = models.get(sample.labels.get("model", ""))
            if model is not None:
                _note(found, model, sample, figure=names.get(sample.name))


def _note(found: Snapshot, model: ModelNow, sample: Any, *, figure: str | None) -> None:
    if figure is not None:
        model.figures[figure] += int(sample.value)
    elif sample.name == _GENERATED:
        found.generated[model.name, sample.labels["worker"]] = int(sample.value)
    elif sample.name == _JOBS and sample.labels["status"] == "queued":
        model.queued = int(sample.value)
