"""The audit of the money: what was charged, by ``docs/billing.md`` and not by the code that moved
it; and the product's own.
"""

from collections import defaultdict

from scripts.breaking.answers import TERMINAL
from scripts.breaking.books import Books, Row
from scripts.breaking.verdict import Line

TOKENS_PER_PRICE = 1_000_000
MAY_BE_CHARGED = {"succeeded", "cancelled", "expired"}
MAY_BE_RELEASED = {"failed", "cancelled", "expired"}


def charged(books: Books) -> Line:
    """What was charged: price times tokens of each job, moved once."""
    moved: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for transfer in books.transfers:
        if transfer.job is not None:
            moved[transfer.job].append((transfer.kind, transfer.amount_micros))
    problems = [
        f"transfers name job {job}, which is not there" for job in moved.keys() - books.jobs.keys()
    ]
    for job in books.jobs.values():
        problems += _wrong(job, sorted(moved[job.id]))
    total = sum(job.charged_micros or 0 for job in books.jobs.values())
    revenue = sum(each.amount_micros for each in books.transfers if each.credit == "revenue")
    if total != revenue:
        problems.append(f"jobs say {total} micros, the ledger {revenue}")
    return Line("charged", total, {"micros held": _held(books)}, problems)


def _held(books: Books) -> int:
    return sum(each.amount_micros for each in books.transfers if each.kind == "hold")


def _wrong(job: Row, moved: list[tuple[str, int]]) -> list[str]:
    if job.state is None:
        return [f"job {job.id} has no charge"]
    state, amount, allowed = _by_the_rules(job)
    wanted = [("hold", job.held_micros)]
    if state == "charged":
        wanted.append(("charge", amount))
    if state == "released" or (state == "charged" and amount < job.held_micros):
        wanted.append(("release", job.held_micros - amount))
    as_told = job.status in allowed and (job.state, job.charged_micros) == (state, amount)
    if as_told and sorted(wanted) == moved:
        return []
    return [
        f"job {job.id} is {job.status} with {job.prompt_tokens} + {job.completion_tokens} tokens;"
        f" {job.state} {job.charged_micros}, not {state} {amount}; moved {moved}, not {wanted}"
    ]


def _by_the_rules(job: Row) -> tuple[str, int, set[str]]:
    """The state of its charge, the amount, and the statuses that it may have with that."""
    if job.status not in TERMINAL:
        return "held", 0, {"queued", "running"}
    if job.prompt_tokens is None:
        return "released", 0, MAY_BE_RELEASED
    exact = (
        job.prompt_tokens * job.input_price_micros + job.completion_tokens * job.output_price_micros
    )
    return "charged", -(-exact // TOKENS_PER_PRICE), MAY_BE_CHARGED


def drift(books: Books) -> Line:
    """What ``gptqueue reconcile`` finds: balances that drift, holds that outlive their jobs."""
    problems = [
        f"{each.fault}: account {each.account_id}, job {each.job_id}, {each.micros} micros"
        for each in books.findings
    ]
    held = sum(balance.held for balance in books.balances)
    return Line("drift", len(problems), {"still held": held}, problems)
