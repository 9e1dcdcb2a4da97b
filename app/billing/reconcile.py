"""What must be true of the ledger at every commit, asked of the ledger itself.

Only reads. What the ledger and the jobs say of each other is in ``app.jobs.reconcile``.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from sqlalchemy import ARRAY, TextClause, Uuid, bindparam, text
from sqlalchemy.orm import Session


class Fault(StrEnum):
    """What can be wrong with the books."""

    DRIFT = "drift"  # a balance is not what its transfers add up to
    UNBALANCED = "unbalanced"  # a transfer not from and to the books of its kind
    MISMATCH = "mismatch"  # the transfers of a job are not what its charge says
    OUTLIVED = "outlived"  # a hold that outlived its job
    CLOSED_EARLY = "closed_early"  # a hold closed before its job ended
    NO_CHARGE = "no_charge"  # a job without a charge
    NO_JOB = "no_job"  # money moved for a job that is not there
    USAGE = "usage"  # usage by day that is not what the ended jobs add up to
    PRICE = "price"  # a charge that is not price times tokens


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: whose, of which job if it is one job's, and by how many micro-USD."""

    fault: Fault
    account_id: UUID
    job_id: UUID | None
    micros: int


_LEDGER = """
    SELECT 'drift', b.account_id, NULL::uuid,
           abs(b.available_micros - coalesce(moved.available, 0))
           + abs(b.held_micros - coalesce(moved.held, 0))
    FROM balances b LEFT JOIN (
        SELECT account_id,
               sum(CASE 'available' WHEN credit THEN amount_micros
                                    WHEN debit THEN -amount_micros END) available,
               sum(CASE 'held' WHEN credit THEN amount_micros
                               WHEN debit THEN -amount_micros END) held
        FROM transfers GROUP BY account_id) moved USING (account_id)
    WHERE (b.available_micros, b.held_micros)
          <> (coalesce(moved.available, 0), coalesce(moved.held, 0))

    UNION ALL SELECT 'drift', account_id, NULL, sum(amount_micros)
    FROM transfers WHERE account_id NOT IN (SELECT account_id FROM balances)
    GROUP BY account_id

    UNION ALL SELECT 'unbalanced', account_id, job_id, amount_micros
    FROM transfers
    WHERE (job_id IS NULL) <> (kind = 'grant') OR (kind, debit, credit) NOT IN (
        ('grant', 'funding', 'available'), ('hold', 'available', 'held'),
        ('charge', 'held', 'revenue'), ('release', 'held', 'available'))

    UNION ALL SELECT 'mismatch', c.account_id, c.job_id, abs(c.held_micros - coalesce(m.held, 0))
                     + abs(c.charged_micros - coalesce(m.charged, 0))
    FROM charges c LEFT JOIN (
        SELECT job_id, max(account_id::text)::uuid account_id,
               count(DISTINCT account_id) accounts,
               count(*) FILTER (WHERE kind = 'hold') holds,
               count(*) FILTER (WHERE kind = 'charge') charges,
               coalesce(sum(amount_micros) FILTER (WHERE kind = 'hold'), 0) held,
               coalesce(sum(amount_micros) FILTER (WHERE kind = 'charge'), 0) charged,
               coalesce(sum(amount_micros) FILTER (WHERE kind = 'release'), 0) released
        FROM transfers WHERE job_id IS NOT NULL GROUP BY job_id) m USING (job_id)
    WHERE (m.account_id, m.accounts, m.holds, m.charges, m.held, m.charged, m.released)
          IS DISTINCT FROM (
              c.account_id, 1, 1, (c.state = 'charged')::int, c.held_micros, c.charged_micros,
              CASE WHEN c.state = 'held' THEN 0 ELSE c.held_micros - c.charged_micros END)
"""


def of_accounts(statement: str) -> TextClause:
    """Findings of all accounts (``accounts`` is null) or of some."""
    return text(
        f"SELECT fault, account_id, job_id, micros::bigint FROM ({statement})"
        " AS found (fault, account_id, job_id, micros)"
        " WHERE cast(:accounts AS uuid[]) IS NULL OR account_id = ANY(:accounts)"
        " ORDER BY account_id, job_id, fault"
    ).bindparams(bindparam("accounts", type_=ARRAY(Uuid)))


def findings(
    session: Session, statement: TextClause, accounts: Collection[UUID] | None
) -> list[Finding]:
    """Run a statement made by ``of_accounts``."""
    some = None if accounts is None else list(accounts)
    rows = session.execute(statement, {"accounts": some})
    return [Finding(Fault(fault), *rest) for fault, *rest in rows]


_STATEMENT = of_accounts(_LEDGER)


def ledger(session: Session, accounts: Collection[UUID] | None = None) -> list[Finding]:
    """What is wrong within the ledger: of these accounts, or of all."""
    return findings(session, _STATEMENT, accounts)
