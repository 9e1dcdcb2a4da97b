"""Task messages as Celery's workers read them from Redis: many in one round trip.

Celery and kombu publish one message per call and round trip (half a millisecond of processor time
each), and neither has a way to send several. The content is Celery's message protocol 2
(https://docs.celeryq.dev/en/stable/internals/protocol.html), the envelope that of kombu's Redis
transport; a test compares both with what Celery itself sends.
"""

import base64
import json
import os
import socket
from uuid import UUID

from uuid_utils.compat import uuid4

_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_ORIGIN = f"gen{os.getpid()}@{socket.gethostname()}"


def encode(task: str, row_id: UUID, queue: str) -> str:
    """The message that asks for ``task`` with the id of a row as its only argument."""
    task_id = str(uuid4())
    body = json.dumps([[str(row_id)], {}, _EMBED])
    message = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": task_id,
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": task_id,
            "parent_id": None,
            "argsrepr": f"['{row_id}']",
            "kwargsrepr": "{}",
            "origin": _ORIGIN,
            "ignore_result": None,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": task_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        },
    }
    return json.dumps(message)
