"""The command ``gptqueue``: what an operator asks of an installation; against DATABASE_URL."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy.exc import SQLAlchemyError

from app import schema
from app.billing.reconcile import Finding
from app.config import Settings
from app.db import Database
from app.errors import DatabaseUnavailable
from app.jobs import reconcile

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, ask, say. Exits with 0 when all is well, 1 when not, 2 when it could not be asked."""
    options = _parser().parse_args(arguments)
    try:
        database = Database(Settings(), schema.metadata)
        try:
            found = _reconcile(database)
        finally:
            database.close()
    except DatabaseUnavailable:
        sys.stderr.write(
            "gptqueue: the database of DATABASE_URL does not answer "
            "(for that of ./scripts/up: source .local/env)\n"
        )
        return 2
    except (SQLAlchemyError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        sys.stderr.write(f"gptqueue: {reason}\n")
        return 2
    sys.stdout.write(_as_json(found) if options.json else _as_text(found))
    return 1 if found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gptqueue", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "reconcile", help="compare balances, transfers, charges and jobs; changes nothing"
    )
    command.add_argument("--json", action="store_true", help="one line: counts and findings")
    return parser


def _reconcile(database: Database) -> list[Finding]:
    with database.transaction() as session:
        return reconcile.everything(session)


def _as_json(found: list[Finding]) -> str:
    findings = [asdict(each) for each in found]
    report = {"clean": not found, "faults": _counts(found), "findings": findings}
    return json.dumps(report, default=str) + "\n"


def _as_text(found: list[Finding]) -> str:
    if not found:
        return "clean: no drift, no hold outlives its job, every transfer sums to zero\n"
    lines = [f"{number} x {fault}: {WORDS[fault]}" for fault, number in _counts(found).items()]
    for each in found[:SHOWN]:
        job = f" job {each.job_id}" if each.job_id else ""
        lines.append(f"  {each.fault}: account {each.account_id}{job}, {each.micros} micros")
    if len(found) > SHOWN:
        lines.append(f"  and {len(found) - SHOWN} more; --json lists all")
    return "\n".join(lines) + "\n"


def _counts(found: list[Finding]) -> dict[str, int]:
    return dict(Counter(each.fault.value for each in found))


if __name__ == "__main__":
    sys.exit(main())
