"""Cancel a job, and tell who waits for it."""

from uuid import UUID

from app.api.services import Services
from app.jobs import telling
from app.jobs.cancel import cancel


def cancel_job(services: Services, account_id: UUID, job_id: UUID) -> None:
    """At once while it is queued, within seconds while it runs; one that has ended stays so.

    Raises JobNotFound or DatabaseUnavailable.
    """
    with services.database.transaction() as session:
        ended = cancel(session, account_id, job_id, base_url=services.settings.public_url)
    if ended is not None:
        telling.tell(services.broker, [ended])
