"""``gptqueue admin jobs``: of all accounts."""

from typing import Annotated, Any
from uuid import UUID

import typer

from app.cli.admin import database
from app.cli.jobs import Status, describe
from app.cli.options import AsJson
from app.cli.printing import print_json, print_table, say
from app.cli.problem import FAILED, FINE
from app.errors import JobNotFound
from app.jobs import operators, queries
from app.jobs.requeue import queued_by_model
from app.jobs.tables import Job

jobs = typer.Typer(help="Inspect, requeue and purge jobs of all accounts.", no_args_is_help=True)

JobId = Annotated[UUID, typer.Argument(metavar="JOB", help="Its id.")]
_COLUMNS = ("JOB", "ACCOUNT", "STATUS", "MODEL", "CREATED", ">ATTEMPT", "WORKER", "LEASE UNTIL")


@jobs.command("list")
def list_jobs(
    *,
    status: Annotated[Status | None, typer.Option(help="Only those.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only its jobs.")] = None,
    account: Annotated[UUID | None, typer.Option(help="Only this account's.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs of all accounts, newest first."""
    wanted = operators.Wanted(status=status, model=model, account_id=account, limit=limit)
    with database.opened() as opened, opened.transaction() as session:
        found = [_fields(job) for job in operators.newest(session, wanted)]
    if as_json:
        return print_json({"data": found})
    return print_table(_COLUMNS, (list(each.values()) for each in found))


@jobs.command("show")
def show_job(job_id: JobId, *, as_json: AsJson = False) -> None:
    """Show a job as its owner sees it, and who that is."""
    known = database.read()
    with database.opened() as opened, opened.transaction() as session:
        job = operators.anyones(session, job_id)
        [found] = queries.read(
            session,
            [operators.owned(job)],
            base_url=known.public_url,
            fresh_seconds=known.lease_seconds,
        )
        if isinstance(found, JobNotFound):
            raise found
    document = found.model_dump(mode="json")
    if as_json:
        return print_json({"account": job.account_id, **document})
    say(f"{'account':<9} {job.account_id}")
    return describe(document)


@jobs.command("requeue")
def requeue(job_id: JobId, *, as_json: AsJson = False) -> int:
    """Send another message for a queued job, or give back a running one whose worker is gone.

    A running job counts as lost by its worker. Exits with 1 where there is nothing to do.
    """
    from app.cli.admin import repair  # Celery takes a third of a second

    done, sentence = repair.requeue(job_id)
    if as_json:
        print_json({"job": job_id, "done": done, "what": sentence})
    else:
        say(sentence)
    return FINE if done else FAILED


@jobs.command("purge")
def purge(
    model: Annotated[str, typer.Argument(help="Whose queue.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> int:
    """Cancel all jobs that wait for a model, after asking; their holds are released.

    Running jobs go on, and so do those that are submitted while it works.
    """
    with database.opened() as opened, opened.transaction() as session:
        waiting = queued_by_model(session).get(model, 0)
        last = operators.newest_queued(session, model)
    cancelled = 0
    if last is not None:
        if not yes and not typer.confirm(f"Cancel {waiting} queued jobs of {model}?", err=True):
            say("Nothing was cancelled.")
            return FAILED
        from app.cli.admin import repair

        cancelled = repair.purge(model, until=last)
    if as_json:
        print_json({"model": model, "cancelled": cancelled})
    else:
        say(f"{cancelled} jobs cancelled; their holds are released.")
    return FINE


def _fields(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "account": job.account_id,
        "status": job.status,
        "model": job.model,
        "created": f"{job.created_at:%F %T}",
        "attempt": job.attempt,
        "worker": job.worker,
        "lease_until": f"{job.lease_until:%F %T}" if job.lease_until else None,
    }
