"""``gptqueue usage``: what was used, what it cost, and what is left."""

from typing import Annotated

import typer

from app.cli import connection
from app.cli.client import Json
from app.cli.money import dollars, usd
from app.cli.options import AsJson
from app.cli.printing import print_json, print_table, say

app = typer.Typer(add_completion=False)

_FIGURES = ("requests", "prompt_tokens", "completion_tokens")


@app.command()
def usage(
    ctx: typer.Context,
    *,
    first: Annotated[
        str | None, typer.Option("--from", metavar="DAY", help="Such as 2026-11-01.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Included.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show jobs, tokens and charges by day, and the credit left.

    Days are UTC; the last thirty, unless others are named.
    """
    report = connection.client(ctx).get("/usage", **{"from": first, "to": last})
    if as_json:
        return print_json(report)
    columns = ["DAY", "MODEL", ">JOBS", ">PROMPT TOKENS", ">COMPLETION TOKENS", ">USD"]
    rows = [_row(day["date"], day["model"], day) for day in report["data"]]
    print_table(columns, [*rows, _row("total", "", report["total"])])
    balance = report["balance"]
    held = f", and {usd(balance['held_micros'])} held for open jobs"
    return say(
        f"Credit: {usd(balance['available_micros'])}{held if balance['held_micros'] else ''}."
    )


def _row(day: str, model: str, sums: Json) -> list[object]:
    return [day, model, *(sums[name] for name in _FIGURES), dollars(sums["charged_micros"])]
