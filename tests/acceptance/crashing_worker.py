"""A worker that is killed when it comes to a named point, or to a job that is poison.

``celery -A tests.acceptance.crashing_worker worker``, with CRASH_FILE as for the API. More options of
kombu's transport come as JSON in BROKER_OPTIONS. Each message is logged as "message_taken".

Not for import: it changes the worker of the process that it is in.
"""

import json
import os
import signal
from collections.abc import Collection

import structlog

from app.jobs.claim import Claimed
from app.jobs.ending import Ended
from app.jobs.transition import End
from tests.acceptance.crashing import POISON, reach
from workers import entrypoint
from workers.engines.base import Generation
from workers.process import Process
from workers.serving import Serving

app = entrypoint.app
app.conf.broker_transport_options.update(json.loads(os.environ.get("BROKER_OPTIONS", "{}")))
log = structlog.get_logger(__name__)

claim_next, run, finish, tell = Serving.claim_next, Serving.run, Process.finish, Process.tell


def crashing_claim_next(serving: Serving) -> Claimed | None:
    """Its message has been popped; the job is not claimed, and then it is."""
    log.info("message_taken")
    reach("before_claim")
    claimed = claim_next(serving)
    reach("after_claim")
    return claimed


def poisoned_run(serving: Serving, claimed: Claimed) -> Generation:
    """What some prompts do to a worker, each time."""
    if POISON in [each["content"] for each in claimed.messages or []]:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(serving, claimed)


def crashing_finish(process: Process, end: End) -> None:
    """Around the transaction of the end; the message is acknowledged after it."""
    reach("before_finish")
    finish(process, end)
    reach("after_finish")


def crashing_tell(process: Process, ended: Collection[Ended]) -> None:
    """Between the commit and telling of it."""
    reach("after_commit")
    tell(process, ended)


Serving.claim_next, Serving.run = crashing_claim_next, poisoned_run
Process.finish, Process.tell = crashing_finish, crashing_tell
