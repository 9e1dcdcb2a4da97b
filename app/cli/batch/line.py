"""One line's way: submit, wait for its end, make its record."""

from typing import Any

from app.cli.batch.api import Answer, Api
from app.cli.batch.errors import CannotGoOn, LineGivenUp
from app.cli.batch.lines import BadLine, Line
from app.cli.batch.output import Record
from app.cli.batch.purse import Purse

TERMINAL = {"succeeded", "failed", "cancelled", "expired"}


class Batch:
    """What the lines of one run have in common."""

    def __init__(self, api: Api, batch_id: str) -> None:
        self._api = api
        self._id = batch_id
        self._purse = Purse()

    def do(self, line: Line | BadLine) -> Record:
        """The line's record for the output; raises CannotGoOn."""
        if isinstance(line, BadLine):
            return _error(line, line.code, line.message)
        try:
            return self._run(line)
        except LineGivenUp as reason:
            return _error(line, "no_answer", str(reason))

    def _run(self, line: Line) -> Record:
        with self._purse.line():
            answer = self._submit(line)
            while answer.status < 400 and answer.document["status"] not in TERMINAL:
                answer = self._api.job(answer.document["id"])
        if answer.status < 400:
            return _record(line, job=answer.document)
        return _error(line, str(answer.document.get("code", answer.status)), answer.reason)

    def _submit(self, line: Line) -> Answer:
        key = f"batch-{self._id}-{line.number}"
        while True:
            seen = self._purse.settled
            answer = self._api.submit(line.endpoint, line.body, key)
            if answer.status in {401, 403}:
                raise CannotGoOn(f"The API refuses the key: {answer.reason}")
            if answer.status != 402:
                return answer
            self._purse.wait(seen, answer.reason)


def _error(line: Line | BadLine, code: str, message: str) -> Record:
    return _record(line, error={"code": code, "message": message})


def _record(line: Line | BadLine, **content: Any) -> Record:
    return {"line": line.number, "custom_id": line.custom_id, **content}
