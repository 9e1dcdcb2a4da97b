"""Everything that a run left in the database."""

from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2.extras import NamedTupleCursor

from app import schema
from app.billing.reconcile import Finding
from app.config import Settings
from app.db import Database
from app.jobs import reconcile

Row = Any  # a named tuple of the query's columns

JOBS = """
    SELECT j.id::text, j.account_id::text AS account, j.status, j.metadata->>'plan' AS plan,
           j.webhook_url, j.prompt_tokens, j.completion_tokens,
           c.state, c.held_micros, c.charged_micros, c.input_price_micros, c.output_price_micros
    FROM jobs j LEFT JOIN charges c ON c.job_id = j.id
"""
ATTEMPTS = "SELECT job_id::text AS job, number, outcome FROM attempts"
TRANSFERS = """
    SELECT job_id::text AS job, account_id::text AS account, kind, debit, credit, amount_micros
    FROM transfers
"""
BALANCES = "SELECT held_micros AS held FROM balances"
DELIVERIES = """
    SELECT replace(id::text, '-', '') AS hex, job_id::text AS job, type, state, attempts,
           next_attempt_at < now() - interval '5 seconds' AS is_overdue
    FROM webhook_deliveries WHERE subscription_id IS NULL
"""
KEYS = "SELECT account_id::text AS account, key, job_id::text AS job FROM idempotency_keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The rows of each table."""

    jobs: dict[str, Row]
    attempts: list[Row]
    transfers: list[Row]
    balances: list[Row]
    deliveries: list[Row]
    keys: list[Row]
    findings: list[Finding]  # of ``gptqueue reconcile``

    def by_plan(self) -> dict[int, list[Row]]:
        """The jobs that each plan led to: one at most."""
        found: dict[int, list[Row]] = defaultdict(list)
        for job in self.jobs.values():
            found[int(job.plan)].append(job)
        return found


def read(database_url: str) -> Books:
    """Read them all."""
    with closing(psycopg2.connect(database_url, cursor_factory=NamedTupleCursor)) as connection:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        cursor = connection.cursor()

        def rows(query: str) -> list[Row]:
            cursor.execute(query)
            return cursor.fetchall()

        return Books(
            jobs={job.id: job for job in rows(JOBS)},
            attempts=rows(ATTEMPTS),
            transfers=rows(TRANSFERS),
            balances=rows(BALANCES),
            deliveries=rows(DELIVERIES),
            keys=rows(KEYS),
            findings=findings(database_url),
        )


def findings(database_url: str) -> list[Finding]:
    """What the product itself finds wrong with its money."""
    database = Database(Settings(database_url=database_url), schema.metadata)
    with closing(database), database.transaction() as session:
        return reconcile.everything(session)
