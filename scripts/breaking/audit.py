"""The promises about jobs, one line of the verdict each: what customers were told, against what is
stored. Money is audited in ``money``, webhooks in ``post``.
"""

from collections import Counter

from scripts.breaking import money, post
from scripts.breaking.answers import TERMINAL, Answers
from scripts.breaking.books import Books
from scripts.breaking.plans import Plans
from scripts.breaking.receiver import Receiver
from scripts.breaking.verdict import Line

LEFT = {"lost", "handed_back"}  # the attempts that another one follows


def lines(books: Books, answers: Answers, plans: Plans, *, receiver: Receiver) -> list[Line]:
    """Every promise."""
    return [
        accepted(books, answers),
        terminal(books),
        lost(books, answers),
        duplicated(books, answers, plans),
        money.charged(books),
        money.drift(books),
        post.deliveries(books, receiver),
        changed(books, answers, receiver),
        Line("unexpected", len(answers.unexpected), problems=answers.unexpected),
    ]


def accepted(books: Books, answers: Answers) -> Line:
    """Jobs that were answered with 202, and those whose answer was lost on its way."""
    told = {job for jobs in answers.accepted.values() for job in jobs}
    others = {
        job.id: plan for plan, jobs in books.by_plan().items() for job in jobs if job.id not in told
    }
    return Line(
        "accepted",
        len(told) + len(others),
        {
            "answered": len(told),
            "of them found by key": len(answers.found),
            "never answered": len(others),
            "refused": len(answers.refused),
        },
        [
            f"job {job} is there, though plan {plan} was never left without an answer"
            for job, plan in others.items()
            if plan not in answers.unanswered
        ]
        + [
            f"plan {plan} was refused for want of credit, but has a job"
            for plan in answers.refused & books.by_plan().keys()
        ],
    )


def terminal(books: Books) -> Line:
    """Jobs that have ended, by how."""
    statuses = Counter(job.status for job in books.jobs.values() if job.status in TERMINAL)
    return Line("terminal", statuses.total(), dict(statuses))


def lost(books: Books, answers: Answers) -> Line:
    """Accepted jobs that nobody knows any more, or that have not ended by now."""
    problems = [
        f"job {job} of plan {plan} was accepted and is not there"
        for plan, jobs in answers.accepted.items()
        for job in jobs - books.jobs.keys()
    ] + [
        f"job {job.id} of plan {job.plan} is still {job.status}"
        for job in books.jobs.values()
        if job.status not in TERMINAL
    ]
    return Line("lost", len(problems), problems=problems)


def duplicated(books: Books, answers: Answers, plans: Plans) -> Line:
    """Two jobs of one request, a key that forgot its job, two ends of one job."""
    keys = {(row.account, row.key): row.job for row in books.keys}
    problems = []
    for plan, jobs in books.by_plan().items():
        if len(jobs) > 1:
            problems.append(f"plan {plan} has {len(jobs)} jobs: {[job.id for job in jobs]}")
        key = plans.draw(plan).key
        if key and keys.get((jobs[0].account, key)) != jobs[0].id:
            problems.append(f"key {key} does not lead to job {jobs[0].id}")
    problems += [
        f"plan {plan} was answered with {len(jobs)} jobs: {sorted(jobs)}"
        for plan, jobs in answers.accepted.items()
        if len(jobs) > 1
    ]
    problems += _ends(books)
    return Line("duplicated", len(problems), problems=problems)


def _ends(books: Books) -> list[str]:
    """Attempts that contradict the status of their job: all but the last were left to others."""
    outcomes: dict[str, list[tuple[int, str]]] = {}
    for attempt in books.attempts:
        outcomes.setdefault(attempt.job, []).append((attempt.number, attempt.outcome))
    problems = []
    for job_id, some in outcomes.items():
        job, kinds = books.jobs[job_id], [outcome for _, outcome in sorted(some)]
        early = [kind for kind in kinds[:-1] if kind not in LEFT]
        last = {job.status} | (LEFT if job.status not in ("running", "succeeded") else set())
        if early or kinds[-1] not in last:
            problems.append(f"job {job_id} is {job.status} after the attempts {kinds}")
    return problems


def changed(books: Books, answers: Answers, receiver: Receiver) -> Line:
    """Jobs of which an answer or a webhook told another end than the one that is stored."""
    told = {job: set(statuses) for job, statuses in answers.told.items()}
    for arrivals in receiver.arrivals.values():
        for each in arrivals:
            told.setdefault(each.job_id, set()).add(each.job_status)
    problems = [
        f"job {job} was told to be {sorted(statuses)} and is {books.jobs[job].status}"
        for job, statuses in told.items()
        if job in books.jobs and statuses != {books.jobs[job].status}
    ]
    return Line("changed", len(problems), {"ends told": len(told)}, problems)
