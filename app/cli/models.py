"""``gptqueue models``: what is served, and its prices."""

import typer

from app.cli import connection
from app.cli.money import dollars
from app.cli.options import AsJson
from app.cli.printing import print_json, print_table

app = typer.Typer(add_completion=False)


@app.command()
def models(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """List what is served, and its prices in USD for a million tokens."""
    found = connection.client(ctx).get("/models")
    if as_json:
        return print_json(found)
    columns = ["MODEL", "VERSION", ">CONTEXT", ">USD/M IN", ">USD/M OUT", "DESCRIPTION"]
    rows = (
        [
            model["name"],
            model["version"],
            model["context_length"],
            dollars(model["input_micros_per_million_tokens"]),
            dollars(model["output_micros_per_million_tokens"]),
            model["description"],
        ]
        for model in found["data"]
    )
    return print_table(columns, rows)
