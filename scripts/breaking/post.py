"""The audit of the webhooks: recorded once for each job, sent until they arrive."""

from collections import Counter

from scripts.breaking.answers import TERMINAL
from scripts.breaking.books import Books, Row
from scripts.breaking.receiver import NO_CONTENT, Receiver
from scripts.breaking.verdict import Line

ATTEMPTS_AT_MOST = 10  # of the Standard Webhooks schedule; only after them is one abandoned


def deliveries(books: Books, receiver: Receiver) -> Line:
    """One record for each ended job that wants one; delivered means that we saw it arrive."""
    recorded = Counter(delivery.job for delivery in books.deliveries)
    problems = []
    for job in books.jobs.values():
        wanted = int(job.webhook_url is not None and job.status in TERMINAL)
        if recorded[job.id] != wanted:
            problems.append(f"job {job.id} has {recorded[job.id]} webhooks, not {wanted}")
    for delivery in books.deliveries:
        problems += _wrong(delivery, books, receiver)
    if receiver.forged:
        problems.append(f"{receiver.forged} requests came with a wrong signature")
    states = Counter(delivery.state for delivery in books.deliveries)
    totals = receiver.totals()
    requests = {
        "requests": totals.total(),
        "of them refused": totals.total() - totals[NO_CONTENT],
        "forged": receiver.forged,
    }
    return Line("deliveries", len(books.deliveries), {**states, **requests}, problems)


def _wrong(delivery: Row, books: Books, receiver: Receiver) -> list[str]:
    job = books.jobs.get(delivery.job)
    problems = []
    if job is None or delivery.type != f"job.{job.status}":
        problems.append(f"says {delivery.type}")
    if delivery.state == "delivered" and not receiver.accepted(f"msg_{delivery.hex}"):
        problems.append("is delivered, but nobody accepted it")
    if delivery.state == "pending" and (delivery.is_overdue or not delivery.attempts):
        problems.append(f"is overdue, after {delivery.attempts} attempts")
    if delivery.state == "abandoned" and delivery.attempts < ATTEMPTS_AT_MOST:
        problems.append(f"was abandoned after {delivery.attempts} attempts")
    return [f"webhook {delivery.hex} of job {delivery.job} {problem}" for problem in problems]
