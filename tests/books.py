"""What must be true of all jobs and all money at any moment, asked of the database itself."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, bindparam, text
from sqlalchemy.orm import Session

from app.jobs import reconcile

_WRONG = text(
    """
    SELECT CASE
        WHEN tried.number <> j.attempt OR tried.last <> j.attempt THEN 'its tries are not counted'
        WHEN tried.live <> (j.status = 'running')::int THEN 'it has not one live lease at most'
        WHEN tried.won <> (j.finish_reason IS NOT NULL)::int THEN 'not one attempt made its result'
        WHEN (o.job_id IS NULL) <> (j.finish_reason IS NULL) THEN 'its result is not its output'
        WHEN told.number <> (j.finished_at IS NOT NULL AND j.webhook_url IS NOT NULL)::int
            THEN 'its end was not told once'
        END, j.id
    FROM jobs j
    LEFT JOIN outputs o ON o.job_id = j.id,
    LATERAL (
        SELECT count(*) number, coalesce(max(number), 0) last,
               count(*) FILTER (WHERE outcome = 'running') live,
               count(*) FILTER (WHERE outcome IN ('succeeded', 'cancelled', 'expired')) won
        FROM attempts a WHERE a.job_id = j.id) tried,
    LATERAL (
        SELECT count(*) number FROM webhook_deliveries d
        WHERE d.job_id = j.id AND d.subscription_id IS NULL) told
    WHERE j.account_id = ANY(:accounts)
    """
).bindparams(bindparam("accounts", type_=ARRAY(Uuid)))


def wrong(session: Session, accounts: Collection[UUID]) -> list[tuple[str, UUID]]:
    """What is wrong with the jobs and the money of these accounts, and with which of them."""
    money = reconcile.money(session, accounts)
    jobs = session.execute(_WRONG, {"accounts": list(accounts)})
    return [(each.fault.value, each.job_id or each.account_id) for each in money] + [
        (what, which) for what, which in jobs if what is not None
    ]
