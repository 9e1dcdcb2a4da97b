"""All that must be true of the money: within the ledger, and between the ledger and the jobs.

Who pays what is published in ``docs/billing.md``; this asks the database whether it came so, and
shares no code with what moves the money. It only reads.
"""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.billing import reconcile
from app.billing.reconcile import Finding

_JOBS = """
    SELECT CASE
        WHEN c.job_id IS NULL THEN 'no_charge'
        WHEN j.finished_at IS NULL AND c.state <> 'held' THEN 'closed_early'
        WHEN j.finished_at IS NOT NULL AND c.state = 'held' THEN 'outlived'
        WHEN c.account_id <> j.account_id THEN 'mismatch'
        WHEN j.finished_at IS NOT NULL AND (c.state, c.charged_micros) <> (due.state, due.micros)
            THEN 'price'
        END, j.account_id, j.id,
        CASE WHEN c.state = 'held' THEN c.held_micros
             ELSE abs(coalesce(c.charged_micros, 0) - due.micros) END
    FROM jobs j LEFT JOIN charges c ON c.job_id = j.id,
    LATERAL (
        SELECT CASE WHEN j.prompt_tokens IS NULL THEN 'released' ELSE 'charged' END AS state,
               -- Rounded once, up; never more than was held.
               least(c.held_micros, div(coalesce(
                   j.prompt_tokens::numeric * c.input_price_micros
                   + j.completion_tokens::numeric * c.output_price_micros, 0) + 999999, 1000000)
               ) AS micros) due
    WHERE c.job_id IS NULL OR c.account_id <> j.account_id
       OR (j.finished_at IS NULL) <> (c.state = 'held')
       OR (j.finished_at IS NOT NULL AND (c.state, c.charged_micros) <> (due.state, due.micros))

    UNION ALL SELECT 'no_job', account_id, job_id, sum(amount_micros)
    FROM transfers WHERE job_id IS NOT NULL
        AND NOT EXISTS (SELECT FROM jobs WHERE jobs.id = transfers.job_id)
    GROUP BY account_id, job_id

    UNION ALL SELECT 'no_job', account_id, job_id, held_micros
    FROM charges WHERE NOT EXISTS (SELECT FROM jobs WHERE jobs.id = charges.job_id)
        AND NOT EXISTS (SELECT FROM transfers WHERE transfers.job_id = charges.job_id)

    UNION ALL SELECT 'usage', account_id, NULL,
        sum(abs(coalesce(u.charged_micros, 0) - coalesce(e.charged_micros, 0)))
    FROM usage_days u FULL JOIN (
        SELECT j.account_id, (c.settled_at AT TIME ZONE 'UTC')::date AS day, model, status,
               count(*) AS requests, sum(coalesce(prompt_tokens, 0)) AS prompt_tokens,
               sum(coalesce(completion_tokens, 0)) AS completion_tokens,
               sum(charged_micros) AS charged_micros
        FROM jobs j JOIN charges c ON c.job_id = j.id
        WHERE j.finished_at IS NOT NULL AND c.settled_at IS NOT NULL
        GROUP BY 1, 2, 3, 4) e USING (account_id, day, model, status)
    WHERE (u.requests, u.prompt_tokens, u.completion_tokens, u.charged_micros)
          IS DISTINCT FROM (e.requests, e.prompt_tokens, e.completion_tokens, e.charged_micros)
    GROUP BY account_id
"""
_STATEMENT = reconcile.of_accounts(_JOBS)
# Long books take longer than a statement of a request may; one snapshot for both statements.
_AT_LENGTH = text("SET LOCAL statement_timeout = 0")
_IN_ONE_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


def money(session: Session, accounts: Collection[UUID] | None = None) -> list[Finding]:
    """Everything that is wrong with the money of these accounts, or of all; empty when nothing
    is. The transaction's isolation decides whether both statements see the same moment.
    """
    found = reconcile.ledger(session, accounts)
    return [*found, *reconcile.findings(session, _STATEMENT, accounts)]


def everything(session: Session) -> list[Finding]:
    """The same of all accounts at one moment, while jobs go on, and however long it takes.

    The session's transaction must not have begun to read.
    """
    session.execute(_IN_ONE_SNAPSHOT)
    session.execute(_AT_LENGTH)
    return money(session)
