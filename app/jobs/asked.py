"""What a job was asked: its parameters and its messages; and how its texts are deleted."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Text, case, cast, delete, func, literal, select, update
from sqlalchemy.orm import Session

from app.errors import JobNotFound, JobStillRuns
from app.jobs.queries import owned_job
from app.jobs.states import TERMINAL
from app.jobs.tables import Job, Output, Prompt
from app.webhooks import journal

_TEXTS = ["json_schema", "stop", "response"]  # of a job's parameters, what the customer wrote
DELETED = "deleted"  # in a job's parameters: its texts are no more


@dataclass(frozen=True, slots=True)
class Asked:
    """What the customer sent, apart from what a JobDocument tells."""

    parameters: dict[str, Any]
    messages: list[dict[str, str]]


def asked(session: Session, account_id: UUID, job_id: UUID) -> Asked:
    """Of a chat of this account; raises JobNotFound, also for one whose texts were deleted."""
    found = session.execute(
        select(Job.parameters, Prompt.messages)
        .join(Prompt, Prompt.job_id == Job.id)
        .where(Job.id == job_id, Job.account_id == account_id)
    ).one_or_none()
    if found is None or DELETED in found.parameters:
        raise JobNotFound
    return Asked(found.parameters, found.messages or [])


def delete_texts(session: Session, account_id: UUID, job_id: UUID) -> None:
    """Forget what the customer wrote and the model answered, in webhooks too; the job and its
    charge stay.

    Raises JobNotFound or JobStillRuns.
    """
    job = owned_job(session, account_id, job_id, lock=True)
    if job.status not in TERMINAL:
        raise JobStillRuns
    session.execute(delete(Output).where(Output.job_id == job_id))
    session.execute(
        update(Prompt)
        .where(Prompt.job_id == job_id)
        .values(  # of the one that there is
            messages=case((Prompt.messages.is_not(None), literal([], Prompt.messages.type))),
            prompt=case((Prompt.prompt.is_not(None), "")),
        )
    )
    session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(
            parameters=Job.parameters.op("-")(cast(_TEXTS, ARRAY(Text))).op("||")(
                func.jsonb_build_object(DELETED, True)
            )
        )
    )
    journal.rewrite(session, job_id, _without_text)


def _without_text(body: str) -> str:
    event = json.loads(body)
    if event["data"]["output"] is not None:
        event["data"]["output"] |= {"text": None, "truncated": False}
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False)
