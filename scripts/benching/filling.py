"""Ended jobs by the million, put into the tables by PostgreSQL itself."""

from contextlib import closing
from uuid import UUID

import psycopg2

from scripts.benching import bed

# The last thirty days, evenly; ids in order of time, as those of the product (RFC 9562, version 7).
JOBS = """
CREATE TEMPORARY TABLE filled AS
SELECT at, overlay(
        lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || md5(number::text)
        PLACING '7' FROM 13 FOR 1
    )::varchar(32)::uuid AS id
FROM (
    SELECT number, now() - interval '30 days' * (1 - number / (%(jobs)s + 1.0)) AS at
    FROM generate_series(1, %(jobs)s) AS number
) AS moments
"""
TABLES = (
    """
    INSERT INTO jobs (id, account_id, kind, model, version, status, priority, parameters, metadata,
        webhook_url, request_id, attempt, worker, deadline_at, created_at, started_at, finished_at,
        finish_reason, prompt_tokens, completion_tokens)
    SELECT id, %(account)s, 'generate', %(model)s, '1', 'succeeded', 0, '{"max_tokens": 64}', '{}',
        'https://example.com/hook', 'bench', 1, 'bench', at + interval '1 hour', at, at, at,
        'stop', 10, 60
    FROM filled
    """,
    """
    INSERT INTO prompts (job_id, account_id, prompt)
    SELECT id, %(account)s, 'Why is a queue better than a lock?' FROM filled
    """,
    """
    INSERT INTO outputs (job_id, account_id, text)
    SELECT id, %(account)s, repeat('An answer. ', 20) FROM filled
    """,
    """
    INSERT INTO attempts (job_id, number, account_id, worker, started_at, ended_at, outcome)
    SELECT id, 1, %(account)s, 'bench', at, at, 'succeeded' FROM filled
    """,
    """
    INSERT INTO charges (job_id, account_id, state, held_micros, charged_micros, currency,
        input_price_micros, output_price_micros, created_at, settled_at)
    SELECT id, %(account)s, 'charged', 138, 130, 'USD', 1000000, 2000000, at, at FROM filled
    """,
    """
    INSERT INTO transfers (account_id, job_id, kind, debit, credit, amount_micros, created_at)
    SELECT %(account)s, id, kind, debit, credit, amount, at
    FROM filled CROSS JOIN (
        VALUES ('hold', 'available', 'held', 138), ('charge', 'held', 'revenue', 130),
            ('release', 'held', 'available', 8)
    ) AS movements (kind, debit, credit, amount)
    """,
    """
    UPDATE balances SET available_micros = available_micros - 130 * %(jobs)s
    WHERE account_id = %(account)s
    """,
    """
    INSERT INTO usage_days
    SELECT %(account)s, (at AT TIME ZONE 'UTC')::date, %(model)s, 'succeeded', count(*),
        10 * count(*), 60 * count(*), 130 * count(*)
    FROM filled GROUP BY 2
    """,
    """
    INSERT INTO webhook_deliveries (id, account_id, job_id, type, url, host, body, state, attempts,
        next_attempt_at, last_status, created_at, ended_at)
    SELECT id, %(account)s, id, 'job.succeeded', 'https://example.com/hook', 'example.com',
        repeat('x', 800), 'delivered', 1, at, 204, at, at
    FROM filled
    """,
)


def fill(url: str, account_id: UUID, jobs: int) -> None:
    """Put so many ended jobs of the account into the database, with all that belongs to them."""
    values = {"jobs": jobs, "account": str(account_id), "model": bed.MODEL}
    with closing(psycopg2.connect(url)) as connection:
        with connection, connection.cursor() as cursor:
            for statement in (JOBS, *TABLES):
                cursor.execute(statement, values)
        connection.autocommit = True
        connection.cursor().execute("VACUUM ANALYZE")
