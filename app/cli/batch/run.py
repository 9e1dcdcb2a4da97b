"""All of a batch: what is left of it is submitted, and each result is written as it arrives."""

import shlex
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from app.cli.batch import lines
from app.cli.batch.api import Api
from app.cli.batch.crew import Crew
from app.cli.batch.errors import CannotGoOn
from app.cli.batch.line import Batch
from app.cli.batch.output import Output, Record
from app.cli.batch.progress import Screen
from app.cli.printing import print_json
from app.cli.problem import FAILED, FINE, INTERRUPTED, UNASKED, Problem

STOPPED_EARLY = 3
CODES = """exit codes:
  0    every line succeeded
  1    every line has ended, some failed
  2    nothing was done: wrong arguments, no API, wrong key
  3    stopped early (no credit, the API is away, a full disk); the same command resumes
  130  interrupted; the same command resumes
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the user wants; ``again`` are the words of the command that resumes it."""

    input: Path
    output: Path
    url: str
    key: str
    again: Sequence[str]
    concurrency: int = 32
    patience: int = 600  # seconds, for an API that is away
    as_json: bool = False


def run(plan: Plan) -> int:
    """Do it and say how it went; the exit code."""
    console = Console(stderr=True, highlight=False)
    resume = f"To resume: {shlex.join(plan.again)}"
    try:
        return _run(plan, console)
    except CannotGoOn as problem:
        explain(console, f"{problem} {resume}")
        return STOPPED_EARLY
    except Problem as problem:
        explain(console, str(problem))
        return UNASKED
    except OSError as error:
        explain(console, f"{error.filename or plan.output}: {error.strerror}. {resume}")
        return STOPPED_EARLY
    except KeyboardInterrupt:
        explain(console, f"Interrupted. {resume}")
        return INTERRUPTED


def explain(console: Console, sentence: str) -> None:
    """Why we stop."""
    console.print(Text("✗ ", "bold red") + Text(sentence), soft_wrap=True)


def _run(plan: Plan, console: Console) -> int:
    survey = lines.survey(plan.input)
    screen = Screen(console, survey.lines)
    api = Api(
        plan.url, plan.key, threads=plan.concurrency, patience=plan.patience, tell=screen.tell
    )
    api.check()
    with closing(Output(plan.output)) as output:
        batch_id = output.resume(survey.sha256)
        screen.resume(done=len(output.done), failed=len(output.done) - output.succeeded)
        with screen:
            _work(plan, Batch(api, batch_id), output=output, screen=screen)
    if plan.as_json:
        failed = survey.lines - output.succeeded
        found = {"lines": survey.lines, "succeeded": output.succeeded, "failed": failed}
        print_json({**found, "output": str(output.path)})
    return _finish(console, output, survey.lines)


def _work(plan: Plan, batch: Batch, *, output: Output, screen: Screen) -> None:
    """Every line that has no result yet."""
    earlier = frozenset(output.done)
    left = (line for line in lines.read(plan.input) if line.number not in earlier)
    crew: Crew[lines.Line | lines.BadLine, Record] = Crew(left, batch.do, plan.concurrency)
    for record in crew.results():
        output.append(record)
        screen.note(record)


def _finish(console: Console, output: Output, total: int) -> int:
    """Say how it went."""
    failed = total - output.succeeded
    colour, mark = ("red", "✗") if failed else ("green", "✓")
    text = f"{output.succeeded} of {total} lines succeeded"
    text += f", {failed} failed" if failed else ""
    console.print(Text(f"{mark} ", colour) + Text(f"{text}: {output.path}"), soft_wrap=True)
    return FAILED if failed else FINE
