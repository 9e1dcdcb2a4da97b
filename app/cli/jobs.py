"""``gptqueue jobs``: the account's jobs."""

from typing import Annotated, Literal

import typer

from app.cli import connection
from app.cli.asking import TERMINAL
from app.cli.client import LONGEST_WAIT, Client, Json
from app.cli.money import dollars, usd
from app.cli.options import AsJson
from app.cli.printing import print_json, print_table, say
from app.cli.problem import FAILED, FINE
from app.cli.screen import waiting

app = typer.Typer(
    help="List jobs, show, cancel or await one.", no_args_is_help=True, add_completion=False
)

_PAGE = 100
Status = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Its id.")]


@app.command("list")
def list_jobs(
    ctx: typer.Context,
    *,
    status: Annotated[Status | None, typer.Option(help="Only those.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only its jobs.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the jobs of the account, newest first."""
    page = _pages(connection.client(ctx), limit=limit, status=status, model=model)
    if as_json:
        return print_json(page)
    columns = ["JOB", "STATUS", "MODEL", "CREATED", ">TOKENS", ">USD"]
    return print_table(columns, (_row(job) for job in page["data"]))


@app.command()
def show(ctx: typer.Context, job_id: JobId, *, as_json: AsJson = False) -> None:
    """Show a job with its text, tokens, money and attempts."""
    job = connection.client(ctx).job(job_id)
    if as_json:
        print_json(job)
    else:
        describe(job)


@app.command()
def cancel(
    ctx: typer.Context,
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB...", help="Their ids.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Cancel jobs: at once where they wait, within seconds where they run."""
    client = connection.client(ctx)
    for job_id in job_ids:
        job = client.cancel(job_id)
        if as_json:
            print_json(job)
        else:
            going = job["status"] == "running"
            say(f"{job['id']}  {'is being cancelled' if going else job['status']}")


@app.command()
def wait(ctx: typer.Context, job_id: JobId, *, as_json: AsJson = False) -> int:
    """Wait until a job has ended, and show it. Exits with 0 if it succeeded, else with 1."""
    client = connection.client(ctx)
    job = client.job(job_id)
    while job["status"] not in TERMINAL:
        job = client.job(job_id, LONGEST_WAIT)
    if as_json:
        print_json(job)
    else:
        describe(job)
    return FINE if job["status"] == "succeeded" else FAILED


def _pages(client: Client, *, limit: int, **wanted: str | None) -> Json:
    """So many jobs in one page, as if the API had pages of that size."""
    found: Json = {"data": [], "has_more": True, "next": None}
    while found["has_more"] and len(found["data"]) < limit:
        size = min(limit - len(found["data"]), _PAGE)
        page = client.get("/jobs", limit=size, after=found["next"], **wanted)
        found = {**page, "data": found["data"] + page["data"]}
    return found


def _row(job: Json) -> list[object]:
    tokens = job["usage"]["total_tokens"] if job["usage"] else None
    charge = job["charge"]
    money = None if charge["state"] == "held" else dollars(charge["charged_micros"])
    return [job["id"], job["status"], job["model"], job["created"][:19] + "Z", tokens, money]


def describe(job: Json) -> None:
    """Print a job, field by field, and its text."""
    charge, used, output = job["charge"], job["usage"], job["output"]
    lines = {
        "job": job["id"],
        "status": job["status"],
        "model": f"{job['model']} {job['version']}",
        "created": job["created"],
        "started": job["started"],
        "finished": job["finished"],
        "tokens": f"{used['prompt_tokens']} + {used['completion_tokens']}" if used else None,
        "held": usd(charge["held_micros"]) if charge["state"] == "held" else None,
        "charged": usd(charge["charged_micros"]) if charge["state"] != "held" else None,
        "attempts": ", ".join(f"{each['worker']}: {each['outcome']}" for each in job["attempts"]),
        "waits": waiting(job) if job["waiting"] else None,
        "ended by": output["finish_reason"] if output else None,
        "error": f"{job['error']['code']}: {job['error']['message']}" if job["error"] else None,
        "webhook": _webhook(job),
    }
    for name, value in lines.items():
        if value:
            say(f"{name:<9} {value}")
    if output and output["text"]:
        say(f"\n{output['text']}")


def _webhook(job: Json) -> str:
    if not job["webhook"]:
        return str(job["webhook_url"] or "")
    told = job["webhook"]
    why = f", {told['last_error']}" if told["last_error"] else ""
    return f"{job['webhook_url']}: {told['state']} after {told['attempts']} attempts{why}"
