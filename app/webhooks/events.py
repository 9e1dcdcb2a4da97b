"""The kinds of events there are; here and nowhere else."""

from enum import StrEnum


class EventType(StrEnum):
    """What a subscription can ask for."""

    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    JOB_EXPIRED = "job.expired"
    BATCH_FINISHED = "batch.finished"  # all jobs of a batch of the native API have ended


TEST = "webhook.test"  # goes to whoever asks for one, whatever else it asked for


def job_event(status: str) -> EventType:
    """That a job has ended in this status."""
    return EventType(f"job.{status}")
