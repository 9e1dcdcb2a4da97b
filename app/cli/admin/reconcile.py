"""``gptqueue reconcile``: whether the books are right."""

from collections import Counter
from dataclasses import asdict

import typer

from app.billing.reconcile import Finding
from app.cli.admin import database
from app.cli.options import AsJson
from app.cli.printing import print_json, say
from app.cli.problem import FAILED, FINE
from app.jobs import reconcile as books

app = typer.Typer(add_completion=False)

SHOWN = 50  # of many findings; --json has them all
WORDS = {
    "drift": "the balance is not what the transfers add up to",
    "unbalanced": "a transfer is not from and to the books of its kind",
    "mismatch": "the transfers are not what the charge says",
    "outlived": "the hold outlived its job",
    "closed_early": "the hold was closed before its job ended",
    "no_charge": "the job has no charge",
    "no_job": "money moved for a job that is not there",
    "usage": "the sums by day are not what the ended jobs add up to",
    "price": "the charge is not price times tokens",
}


@app.command()
def reconcile(*, as_json: AsJson = False) -> int:
    """Compare balances, transfers, charges and jobs; changes nothing.

    Exits with 0 when the books are clean, with 1 when they are not.
    """
    with database.opened() as opened, opened.transaction() as session:
        found = books.everything(session)
    if as_json:
        findings = [asdict(each) for each in found]
        print_json({"clean": not found, "faults": _counts(found), "findings": findings})
    else:
        _describe(found)
    return FAILED if found else FINE


def _describe(found: list[Finding]) -> None:
    if not found:
        say("clean: no drift, no hold outlives its job, every transfer sums to zero")
    for fault, number in _counts(found).items():
        say(f"{number} x {fault}: {WORDS[fault]}")
    for each in found[:SHOWN]:
        job = f" job {each.job_id}" if each.job_id else ""
        say(f"  {each.fault}: account {each.account_id}{job}, {each.micros} micros")
    if len(found) > SHOWN:
        say(f"  and {len(found) - SHOWN} more; --json lists all")


def _counts(found: list[Finding]) -> dict[str, int]:
    return dict(Counter(each.fault.value for each in found))
