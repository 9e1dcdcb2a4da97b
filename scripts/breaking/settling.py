"""After the last fault: wait until nothing is left to do, but not for ever."""

import time
from contextlib import closing

import psycopg2

from scripts.breaking.crew import Crew
from scripts.breaking.stage import Stage

CREW_SECONDS = 60
SETTLE_SECONDS = 90
QUIET_SECONDS = 1.0  # as long as nothing may be left, since an attempt in flight is not due either
POLL_SECONDS = 0.25
LEFT = """
    SELECT (SELECT count(*) FROM jobs WHERE status IN ('queued', 'running'))
         + (SELECT count(*) FROM webhook_deliveries
            WHERE state = 'pending' AND (attempts = 0 OR next_attempt_at <= now()))
"""


def settle(crew: Crew, stage: Stage) -> None:
    """Return when every customer is done and no job and no webhook is due, or when it takes too
    long: what is left then is for the audit to find.
    """
    crew.join(CREW_SECONDS)
    deadline = time.monotonic() + SETTLE_SECONDS
    quiet_since = time.monotonic()
    with closing(psycopg2.connect(stage.database_url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        while time.monotonic() < min(deadline, quiet_since + QUIET_SECONDS):
            cursor.execute(LEFT)
            if cursor.fetchone() != (0,):
                quiet_since = time.monotonic()
            time.sleep(POLL_SECONDS)
