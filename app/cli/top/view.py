"""A snapshot as a table, and as a document."""

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from app.cli.top.snapshot import ModelNow, Snapshot

_COLUMNS = (
    ("MODEL", "left"),
    ("QUEUED", "right"),
    ("MESSAGES", "right"),
    ("WORKERS", "left"),
    ("RUNNING", "right"),
    ("TOKENS/S", "right"),
    ("KV", "right"),
    ("RESTARTS", "right"),
)
Rates = dict[str, float] | None


def table(now: Snapshot, rates: Rates, *, url: str) -> Group:
    """For people."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, side in _COLUMNS:
        shown.add_column(name, justify="right" if side == "right" else "left")
    for model in now.models:
        shown.add_row(*_row(model, now, rates))
    problems = [
        Text(f"{model.name}: {problem}", "red")
        for model in now.models
        for problem in model.problems
    ]
    return Group(_heading(now, url), shown, *problems)


def document(now: Snapshot, rates: Rates) -> dict[str, Any]:
    """For programs; figures are null where the metrics did not answer."""
    return {
        "ready": now.ready,
        "database": now.database,
        "broker": now.broker,
        "models": {model.name: _document(model, now, rates) for model in now.models},
    }


def _document(model: ModelNow, now: Snapshot, rates: Rates) -> dict[str, Any]:
    generated = sum(count for (name, _), count in now.generated.items() if name == model.name)
    figures = {**model.figures, "queued": model.queued, "generated_tokens": generated}
    return {
        "queue_depth": model.queue_depth,
        "workers": model.workers,
        **(figures if now.has_metrics else dict.fromkeys(figures)),
        "tokens_per_second": round(rates[model.name], 1) if rates else None,
        "problems": model.problems,
    }


def _heading(now: Snapshot, url: str) -> Text:
    heading = Text(url, "bold")
    for name, works in (("database", now.database), ("broker", now.broker)):
        heading.append(f"  {name} ", "")
        heading.append("ok" if works else "does not answer", "green" if works else "bold red")
    if not now.has_metrics:
        heading.append("  metrics are closed (GPTQUEUE_METRICS_TOKEN?)", "yellow")
    return heading


def _row(model: ModelNow, now: Snapshot, rates: Rates) -> list[Text]:
    figures = model.figures
    workers = ", ".join(f"{count} {state}" for state, count in model.workers.items() if count)
    capacity = figures["kv_capacity"]
    known = now.has_metrics
    cells = [
        model.name,
        str(model.queued) if known else "",
        "" if model.queue_depth is None else str(model.queue_depth),
        workers or "none",
        f"{figures['running']}/{figures['slots']}" if known else "",
        f"{rates[model.name]:.1f}" if rates else "",
        f"{100 * figures['kv_used'] // capacity} %" if capacity else "",
        str(figures["restarts"]) if known else "",
    ]
    return [Text(each) for each in cells]
