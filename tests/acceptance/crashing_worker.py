"""A worker that is killed when it comes to a named point, or to a job that is poison.

``celery -A tests.acceptance.crashing_worker worker``, with CRASH_FILE as for the API. More options
of kombu's transport come as JSON in BROKER_OPTIONS. Each message is logged as "message_taken".

Not for import: it changes the worker of the process that it is in.
"""

import json
import os
import signal
from collections.abc import Collection
from typing import Any

import structlog

from app.jobs.claim import Claimed
from app.jobs.ending import Ended
from app.jobs.transition import End
from app.webhooks import outbox
from app.webhooks.parcels import Answer, Parcel
from app.webhooks.tables import DeliveryState
from tests.acceptance.crashing import ENGINE_POINT, POISON, is_meant, reach
from workers import deliver, entrypoint
from workers.deliver import Courier
from workers.engines.base import Generation
from workers.process import Process
from workers.serving import Serving

app = entrypoint.app
app.conf.broker_transport_options.update(json.loads(os.environ.get("BROKER_OPTIONS", "{}")))
log = structlog.get_logger(__name__)

claim_next, run, finish, tell = Serving.claim_next, Serving.run, Process.finish, Process.tell
claim, send, mark, deliver_one = outbox.claim, deliver.send, outbox.mark, Courier._deliver


def crashing_claim_next(serving: Serving) -> Claimed | None:
    """Its message has been popped; the job is not claimed, and then it is."""
    log.info("message_taken")
    reach("before_claim")
    claimed = claim_next(serving)
    reach("after_claim")
    return claimed


def poisoned_run(serving: Serving, claimed: Claimed) -> Generation:
    """What some prompts do to a worker, each time; and an engine that dies for good."""
    if is_meant(ENGINE_POINT):
        assert serving._engine is not None
        serving._engine.close()
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


def crashing_claim(*args: Any, **options: Any) -> outbox.Claimed:
    """Claimed, and not committed."""
    claimed = claim(*args, **options)
    if claimed.parcels:
        reach("delivery_unclaimed")
    return claimed


def crashing_send(*args: Any) -> Answer:
    """Around the request."""
    reach("delivery_claimed")
    answer = send(*args)
    reach("delivery_sent")
    return answer


def crashing_mark(*args: Any, **options: Any) -> list[DeliveryState | None]:
    """Marked, and not committed."""
    states = mark(*args, **options)
    reach("delivery_unmarked")
    return states


def crashing_deliver(courier: Courier, parcel: Parcel) -> None:
    """After the commit, before the task ends and its message is acknowledged."""
    deliver_one(courier, parcel)
    reach("delivery_marked")


outbox.claim, outbox.mark = crashing_claim, crashing_mark
deliver.send, Courier._deliver = crashing_send, crashing_deliver
Serving.claim_next, Serving.run = crashing_claim_next, poisoned_run
Process.finish, Process.tell = crashing_finish, crashing_tell
