"""``gptqueue batch``."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli import connection
from app.cli.batch.run import Plan, run
from app.cli.options import AsJson

app = typer.Typer(add_completion=False)


@app.command()
def batch(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="IN.jsonl")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.jsonl")],
    concurrency: Annotated[int, typer.Option(min=1, help="Jobs in flight.")] = 32,
    patience: Annotated[
        int, typer.Option(min=1, help="Seconds to wait for an API that is away.")
    ] = 600,
    as_json: AsJson = False,
) -> int:
    """Submit every line of a file of jobs.

    Each result is written as it arrives. A line of IN.jsonl is the body of a job, with two
    optional fields: "endpoint" ("chat", "generate" or "complete"; by default what fits) and
    "custom_id" (default: the line's number). A line of OUT.jsonl is {"line", "custom_id", "job"},
    or {"line", "custom_id", "error"}.

    Interrupt it at any moment: the same command resumes, and neither submits nor pays twice.
    Exits with 3 when it stopped early (no credit, the API is away): the same command resumes.
    """
    client = connection.client(ctx)
    return run(
        Plan(
            input=file,
            output=output,
            url=client.url,
            key=connection.settings(ctx).api_key,
            again=["gptqueue", "batch", str(file), "-o", str(output)],
            concurrency=concurrency,
            patience=patience,
            as_json=as_json,
        )
    )
