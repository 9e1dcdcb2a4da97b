"""JSON logs on standard output, for our own events and for every library's.

Request and job ids are bound with ``structlog.contextvars`` where a request or a job begins, and
stand in each line until it ends. Prompts, outputs and keys are never logged.
"""

import logging
import sys
import traceback

import structlog

from app.config import Settings

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

# Celery says "received" and "succeeded" of every message; our own events say more.
_CHATTY = ("celery.worker.strategy", "celery.app.trace", "celery.beat")


def configure(settings: Settings) -> None:
    """Send structlog and the standard library's logging through one JSON formatter."""
    structlog.configure(
        processors=[
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Without local variables: they can hold what customers wrote.
                structlog.processors.ExceptionRenderer(
                    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
                ),
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    logging.captureWarnings(True)


def frames(error: BaseException) -> list[str]:
    """Where an error came from, innermost last, for errors whose own words must not be logged."""
    return [
        f"{frame.filename}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
