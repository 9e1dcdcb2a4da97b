"""``gptqueue top``."""

import time
from typing import Annotated

import typer

from app.cli import connection
from app.cli.client import Client
from app.cli.options import AsJson
from app.cli.printing import print_json
from app.cli.problem import FAILED, FINE, INTERRUPTED, Problem
from app.cli.top.pace import Pace
from app.cli.top.snapshot import Snapshot, take
from app.cli.top.view import Rates, document, table

app = typer.Typer(add_completion=False)


@app.command()
def top(
    ctx: typer.Context,
    *,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    as_json: AsJson = False,
) -> int:
    """Watch queues, workers and tokens per second; Ctrl-C ends. No key is needed.

    --once exits with 1 when the API cannot accept jobs. Its tokens_per_second is null: the
    difference of two generated_tokens says more.
    """
    client = connection.keyless(ctx)
    token = connection.settings(ctx).metrics_token
    if once:
        now = take(client, token)
        _print(now, None, url=client.url, as_json=as_json)
        return FINE if now.ready else FAILED
    if as_json:
        return _repeat(client, token, interval)
    return _watch(client, token, interval)


def _print(now: Snapshot, rates: Rates, *, url: str, as_json: bool) -> None:
    from rich.console import Console

    if as_json:
        print_json(document(now, rates))
    else:
        Console(highlight=False).print(table(now, rates, url=url))


def _repeat(client: Client, token: str, interval: float) -> int:
    """A document a line."""
    pace = Pace()
    while True:
        now = take(client, token)
        print_json(document(now, pace.note(now)))
        time.sleep(interval)


def _watch(client: Client, token: str, interval: float) -> int:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    pace = Pace()
    first = take(client, token)  # an API that is not there is told at once
    shown = table(first, pace.note(first), url=client.url)
    try:
        with Live(shown, console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                try:
                    now = take(client, token)
                    live.update(table(now, pace.note(now), url=client.url), refresh=True)
                except Problem as problem:
                    live.update(Text(str(problem), "bold red"), refresh=True)
    except KeyboardInterrupt:
        return INTERRUPTED
