"""``gptqueue admin models``."""

from typing import Any

import typer

from app.catalog import Model
from app.cli.admin import database
from app.cli.options import AsJson
from app.cli.printing import print_json, print_table
from app.config import Settings
from app.fleet.presence import ModelPresence, by_model
from app.jobs.requeue import queued_by_model

models = typer.Typer(help="The catalog, with queues and workers.", no_args_is_help=True)

_COLUMNS = ("MODEL", "VERSION", "ENGINE", "ENABLED", "QUEUE", ">MESSAGES", ">QUEUED", "WORKERS")


@models.callback()
def about_models() -> None:
    """The catalog, with queues and workers."""


@models.command("list")
def list_models(*, as_json: AsJson = False) -> None:
    """List the catalog: what is enabled, what waits, and which workers there are.

    MESSAGES are hints in the broker, QUEUED are jobs that wait in the database.
    """
    known = database.read()
    catalog = database.served(known)
    with database.opened() as opened, opened.transaction() as session:
        presence = by_model(session, known.lease_seconds)
        queued = queued_by_model(session)
    depths = _depths(known, list(catalog.models))
    found = [
        {
            **_of_catalog(name, model, engine=catalog.running(model).engine),
            "messages": depths.get(name) if depths is not None else None,
            "queued": queued.get(name, 0),
            **_of_workers(presence.get(name, ModelPresence())),
        }
        for name, model in sorted(catalog.models.items())
    ]
    if as_json:
        return print_json({"data": found})
    return print_table(_COLUMNS, (_row(each) for each in found))


def _depths(known: Settings, names: list[str]) -> dict[str, int] | None:
    """Messages by model; None when the broker does not answer, which is told elsewhere."""
    from redis.exceptions import RedisError

    from app.queues import Broker

    try:
        return Broker(known).depths(names)
    except (RedisError, OSError, ValueError):
        return None


def _of_catalog(name: str, model: Model, *, engine: str) -> dict[str, Any]:
    return {
        "name": name,
        "version": model.version,
        "engine": engine,
        "base": model.current.base,
        "enabled": model.enabled,
        "queue": f"generate.{name}",
    }


def _of_workers(there: ModelPresence) -> dict[str, Any]:
    return {"workers": dict(there.workers), "errors": there.errors}


def _row(each: dict[str, Any]) -> list[object]:
    workers = ", ".join(f"{count} {state}" for state, count in each["workers"].items() if count)
    errors = f" ({'; '.join(each['errors'])})" if each["errors"] else ""
    fields = [each[name] for name in ("name", "version", "engine")]
    enabled = "yes" if each["enabled"] else "no"
    return [*fields, enabled, each["queue"], each["messages"], each["queued"], workers + errors]
