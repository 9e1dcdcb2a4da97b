"""What somebody sees who waits for an answer: why it waits, the text as it comes, what it cost."""

import sys

from app.cli.client import Json
from app.cli.following import Event
from app.cli.money import usd
from app.cli.printing import printable

WAITING = {
    "in_queue": "in the queue",
    "no_worker": "no worker serves this model now",
    "model_loading": "the model is being loaded",
    "model_failed": "the model could not be loaded; its operator must look",
}


class Screen:
    """One answer. The text goes to standard output, everything else to standard error."""

    def __init__(self, *, shows_text: bool) -> None:
        from rich.console import Console

        self._shows_text = shows_text
        self._attempt = self._offset = 0
        self._open_line = False
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._status = self._console.status("")
        self._spins = False

    def note(self, event: Event) -> None:
        """Something happened to the job."""
        if event.name == "status":
            self.wait(event.data)
        elif event.name == "delta":
            self.write(event.data)

    def wait(self, job: Json) -> None:
        """Say what the job waits for; ``job`` has its status and ``waiting``."""
        if self._open_line or not self._console.is_terminal:
            return
        self._status.update(waiting(job))
        if not self._spins:
            self._spins = True
            self._status.start()

    def write(self, delta: Json) -> None:
        """The next piece of the text."""
        attempt, offset, text = delta["attempt"], delta["offset"], delta["text"]
        if attempt != self._attempt:
            if self._attempt:
                self.close()
                self.tell(f"The job begins again, for the {_nth(attempt)} time:")
            self._attempt, self._offset = attempt, 0
        fresh = text[max(self._offset - offset, 0) :]
        self._offset += len(fresh)
        if self._shows_text and fresh:
            self._write(fresh)

    def finish(self, job: Json, *, cost: bool) -> None:
        """The job has ended: what is missing of the text, and what it cost."""
        text = (job["output"] or {}).get("text") or ""
        attempt = job["attempts"][-1]["number"] if job["attempts"] else 0
        if text:
            self.write({"attempt": attempt, "offset": 0, "text": text})
        self.close()
        if cost:
            self.tell(price(job))

    def close(self) -> None:
        """End the line, and the waiting."""
        self._still()
        if self._open_line:
            self._open_line = False
            sys.stdout.write("\n")
            sys.stdout.flush()

    def tell(self, sentence: str) -> None:
        """Something that is no part of the answer."""
        self.close()
        sys.stderr.write(f"{sentence}\n")

    def _write(self, text: str) -> None:
        self._still()
        sys.stdout.write(printable(text))
        sys.stdout.flush()
        self._open_line = True

    def _still(self) -> None:
        if self._spins:
            self._spins = False
            self._status.stop()


def waiting(job: Json) -> str:
    """Why there is no text yet."""
    why = job.get("waiting")
    if why is None:
        return "The model begins."
    before = why["position"]
    many = f"{before} {'job' if before == 1 else 'jobs'} before it"
    return f"Waiting: {WAITING.get(why['reason'], why['reason'])}, {many if before else 'first'}."


def price(job: Json) -> str:
    """Tokens and charge."""
    used = job["usage"] or {"prompt_tokens": 0, "completion_tokens": 0}
    return (
        f"{used['prompt_tokens']} prompt + {used['completion_tokens']} completion tokens, "
        f"{usd(job['charge']['charged_micros'])}"
    )


def _nth(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
