"""What the API told its customers: kept, to be compared with the database at the end."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

TERMINAL = {"succeeded", "failed", "cancelled", "expired"}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; status 0, and why in ``text``, when the connection broke."""

    status: int
    text: str = ""
    media_type: str = ""
    retry_after: str = ""
    replayed: bool = False  # an earlier submit with that key had made the job
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def broke(self) -> bool:
        """Whether there was no answer."""
        return self.status == 0

    @property
    def good(self) -> bool:
        """Whether the wish was done."""
        return 200 <= self.status < 300

    @property
    def sound(self) -> bool:
        """Whether a customer has to expect it: a yes, no credit, or a 503 that says when to ask
        again.
        """
        if "Traceback" in self.text:
            return False
        if self.status == 503:
            return self.media_type == "application/problem+json" and self.retry_after.isdecimal()
        return self.good or self.status == 402


class Answers:
    """Everything that many threads were told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.accepted: dict[int, set[str]] = {}  # plan -> the ids that its submits got
        self.found: set[int] = set()  # plans whose job was there already when its 202 came
        self.refused: set[int] = set()  # plans without credit
        self.unanswered: set[int] = set()  # plans that gave up without a 202 or a 402
        self.told: dict[str, set[str]] = {}  # job -> the terminal statuses that were seen
        self.statuses: Counter[str] = Counter()
        self.unexpected: list[str] = []

    def count(self, answer: Answer) -> None:
        """An answer came, or a connection broke."""
        with self._lock:
            self.statuses["broken" if answer.broke else str(answer.status)] += 1

    def complain(self, what: str, answer: Answer) -> None:
        """An answer that nobody should get."""
        with self._lock:
            self.unexpected.append(f"{what}: {answer.status or 'no answer'} {answer.text[:300]}")

    def accept(self, plan: int, job: dict[str, Any], *, replayed: bool = False) -> None:
        """A submit was answered with 202."""
        with self._lock:
            if replayed and plan not in self.accepted:
                self.found.add(plan)
            self.accepted.setdefault(plan, set()).add(job["id"])
        self.see(job)

    def refuse(self, plan: int) -> None:
        """A submit was answered with 402."""
        with self._lock:
            self.refused.add(plan)

    def give_up(self, plan: int) -> None:
        """A submit has no answer, and is not tried again."""
        with self._lock:
            self.unanswered.add(plan)

    def see(self, job: dict[str, Any]) -> None:
        """A job was shown; an end that was shown once must stay."""
        if job["status"] in TERMINAL:
            with self._lock:
                self.told.setdefault(job["id"], set()).add(job["status"])
