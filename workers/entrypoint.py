"""``celery -A workers.entrypoint worker -Q generate.<model>``: the worker processes.

One module for all of them: a worker loads the model of each ``generate.`` queue that it consumes,
and its adapters, whose queues it then consumes as well; and no model when it consumes only
``webhooks`` and ``maintenance``.
"""

from typing import Any
from uuid import UUID

import structlog
from celery import Task, signals
from sentry_sdk.integrations.celery import CeleryIntegration

from app import config, errortracking, logs
from app.errors import ModelLoadFailed
from app.queues import (
    BATCH_TASK,
    DELIVER_TASK,
    GENERATE_PREFIX,
    GENERATE_TASK,
    SWEEP_TASK,
    make_celery,
)
from workers import generate, sweep
from workers.process import compose

log = structlog.get_logger(__name__)

settings = config.current()
logs.configure(settings)
app = make_celery(settings)
# By name: Sentry has to change Celery before its consumer is imported.
app.conf.worker_consumer = "workers.consumer:Consumer"
errortracking.configure(settings, CeleryIntegration())
process = compose(settings)


@signals.setup_logging.connect
def _keep_logging(**_: Any) -> None:
    """Celery sets up no logging of its own where this signal has a receiver."""


@signals.worker_init.connect
def _start(sender: Any, **_: Any) -> None:
    try:
        queues = sender.app.amqp.queues
        for queue in process.serve(list(queues.consume_from), sender.hostname):
            queues.select_add(queue)
    except ModelLoadFailed:
        # Logged and reported by then; whoever supervises this process decides when to try again.
        raise SystemExit(1) from None
    except Exception:
        # Celery would log it and consume all the same, without a model.
        log.exception("start_failed")
        raise SystemExit(1) from None


@signals.worker_shutting_down.connect
def _begin_to_stop(**_: Any) -> None:
    process.grace.count_down()  # in a signal handler


@signals.worker_shutdown.connect
def _stop(sender: Any, **_: Any) -> None:
    if process.failed:
        # Celery calls every warm shutdown a success; a supervisor would leave it at that.
        sender.exitcode = 1
    process.stop()


@app.task(name=GENERATE_TASK, bind=True)
def _generate(task: Task, job_id: str) -> None:
    queue = task.request.delivery_info["routing_key"]
    serving = process.servings[queue]
    if process.grace.begun or not process.wait_until_ready(serving):
        model = queue.removeprefix(GENERATE_PREFIX)
        process.broker.enqueue_jobs([(model, UUID(job_id))])  # for the others
        return
    generate.generate(process, serving)


@app.task(name=DELIVER_TASK)
def _deliver(delivery_id: str) -> None:
    process.courier.deliver_due()


@app.task(name=BATCH_TASK)
def _advance_batches(batch_id: str) -> None:
    process.feeder.wake()


@app.task(name=SWEEP_TASK, send_events=False)  # every few seconds: it would hide the jobs in Flower
def _sweep() -> None:
    sweep.sweep(process)
