"""What must be true of all jobs and all money at any moment, asked of the database itself."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, bindparam, text
from sqlalchemy.orm import Session

_WRONG = text(
    """
    SELECT 'the balance is not what the transfers add up to', b.account_id
    FROM balances b, LATERAL (
        SELECT coalesce(sum(CASE 'available' WHEN t.credit THEN t.amount_micros
                                             WHEN t.debit THEN -t.amount_micros END), 0) available,
               coalesce(sum(CASE 'held' WHEN t.credit THEN t.amount_micros
                                        WHEN t.debit THEN -t.amount_micros END), 0) held
        FROM transfers t WHERE t.account_id = b.account_id) moved
    WHERE b.account_id = ANY(:accounts)
      AND (b.available_micros, b.held_micros) <> (moved.available, moved.held)

    UNION ALL SELECT CASE
        WHEN moved.holds <> 1 OR moved.held_at_first IS DISTINCT FROM c.held_micros
            THEN 'it was not held exactly once'
        WHEN (c.state = 'held') <> (j.finished_at IS NULL) THEN 'its hold does not live as it does'
        WHEN moved.still_held <> CASE WHEN j.finished_at IS NULL THEN c.held_micros ELSE 0 END
            THEN 'its transfers do not sum to zero'
        WHEN moved.charges <> (c.state = 'charged')::int OR moved.charged <> c.charged_micros
            THEN 'it was not charged as its charge says'
        WHEN tried.number <> j.attempt OR tried.last <> j.attempt THEN 'its tries are not counted'
        WHEN tried.live <> (j.status = 'running')::int THEN 'it has not one live lease at most'
        WHEN tried.won <> (j.finish_reason IS NOT NULL)::int THEN 'not one attempt made its result'
        WHEN (o.job_id IS NULL) <> (j.finish_reason IS NULL) THEN 'its result is not its output'
        WHEN told.number <> (j.finished_at IS NOT NULL AND j.webhook_url IS NOT NULL)::int
            THEN 'its end was not told once'
        END, j.id
    FROM jobs j
    LEFT JOIN charges c ON c.job_id = j.id
    LEFT JOIN outputs o ON o.job_id = j.id,
    LATERAL (
        SELECT count(*) FILTER (WHERE kind = 'hold') holds,
               sum(amount_micros) FILTER (WHERE kind = 'hold') held_at_first,
               count(*) FILTER (WHERE kind = 'charge') charges,
               coalesce(sum(amount_micros) FILTER (WHERE kind = 'charge'), 0) charged,
               sum(CASE 'held' WHEN credit THEN amount_micros
                               WHEN debit THEN -amount_micros END) still_held
        FROM transfers t WHERE t.job_id = j.id) moved,
    LATERAL (
        SELECT count(*) number, coalesce(max(number), 0) last,
               count(*) FILTER (WHERE outcome = 'running') live,
               count(*) FILTER (WHERE outcome IN ('succeeded', 'cancelled', 'expired')) won
        FROM attempts a WHERE a.job_id = j.id) tried,
    LATERAL (SELECT count(*) number FROM webhook_deliveries d WHERE d.job_id = j.id) told
    WHERE j.account_id = ANY(:accounts)

    UNION ALL SELECT 'money moved for a job that is not there', t.job_id
    FROM transfers t LEFT JOIN jobs j ON j.id = t.job_id
    WHERE t.account_id = ANY(:accounts) AND t.job_id IS NOT NULL AND j.id IS NULL
    """
).bindparams(bindparam("accounts", type_=ARRAY(Uuid)))


def wrong(session: Session, accounts: Collection[UUID]) -> list[tuple[str, UUID]]:
    """What is wrong with the jobs and the money of these accounts, and with which of them."""
    found = session.execute(_WRONG, {"accounts": list(accounts)})
    return [(what, which) for what, which in found if what is not None]
