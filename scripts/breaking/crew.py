"""The customers: threads that submit jobs at a steady rate, whatever happens to the API."""

import itertools
import threading
import time

from scripts.breaking.answers import Answer, Answers
from scripts.breaking.asking import Api
from scripts.breaking.plans import Plan, Plans
from scripts.breaking.stage import Stage
from scripts.stack.problem import Problem

THREADS = 24
PAUSE_SECONDS = 0.5  # before a request is tried again
TRIES = 60
WAIT_SECONDS = 5


class Crew:
    """Submits ``jobs`` jobs within ``seconds``."""

    def __init__(self, stage: Stage, plans: Plans, *, jobs: int, seconds: float) -> None:
        self.answers = Answers()
        self._stage = stage
        self._plans = plans
        self._jobs = jobs
        self._seconds = seconds
        self._numbers = itertools.count()
        self._began = 0.0
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(THREADS)]

    def start(self) -> None:
        """Begin."""
        self._api = Api(self._stage.port, self._stage.api_away, self.answers)
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    def join(self, seconds: float) -> None:
        """Wait until everyone is done; raises Problem when that takes longer."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0, until - time.monotonic()))
        if self._errors:
            raise self._errors[0]
        if any(thread.is_alive() for thread in self._threads):
            raise Problem("Customers were still trying to submit long after the last fault.")

    def _work(self) -> None:
        try:
            while (number := next(self._numbers)) < self._jobs:
                due = self._began + number * self._seconds / self._jobs
                time.sleep(max(0, due - time.monotonic()))
                self._carry_out(self._plans.draw(number))
        except BaseException as error:
            self._errors.append(error)

    def _carry_out(self, plan: Plan) -> None:
        accepted = self._submit(plan)
        if accepted is None:
            return
        if plan.again:
            self._submit(plan)
        path = f"jobs/{accepted.document['id']}"
        if plan.cancel_after is not None:
            time.sleep(plan.cancel_after)
            self._insist(plan, "POST", f"{path}/cancel")
        if plan.watched:
            self._insist(plan, "GET", path, {"Prefer": f"wait={WAIT_SECONDS}"})

    def _submit(self, plan: Plan) -> Answer | None:
        """The 202, if there was one. Without a key one does not dare to ask twice."""
        keyed = {"Idempotency-Key": plan.key} if plan.key else {}
        for _ in range(TRIES if plan.key else 1):
            answer = self._ask(plan, "POST", plan.path, headers=keyed)
            if answer.status == 202:
                self.answers.accept(plan.number, answer.document, replayed=answer.replayed)
                return answer
            if answer.status == 402:
                self.answers.refuse(plan.number)
                return None
            time.sleep(PAUSE_SECONDS)
        self.answers.give_up(plan.number)
        return None

    def _insist(
        self, plan: Plan, method: str, path: str, headers: dict[str, str] | None = None
    ) -> None:
        for _ in range(TRIES):
            answer = self._ask(plan, method, path, headers=headers or {})
            if answer.good:
                self.answers.see(answer.document)
                return
            time.sleep(PAUSE_SECONDS)

    def _ask(self, plan: Plan, method: str, path: str, *, headers: dict[str, str]) -> Answer:
        key = self._stage.customers[plan.customer].key
        return self._api.ask(
            method,
            path,
            {"Authorization": f"Bearer {key}", **headers},
            body=plan.body if path == plan.path else None,
        )
