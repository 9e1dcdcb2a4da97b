"""Submit every line of a file of jobs, and write each result as it arrives.

A line of IN.jsonl is the body of a job, with two optional fields: "endpoint" ("chat", "generate"
or "complete"; by default what fits) and "custom_id" (default: the line's number). A line of
OUT.jsonl is {"line", "custom_id", "job"}, or {"line", "custom_id", "error"} for a line that is no
valid job. Every line that is not blank gets exactly one, in the order in which they end.

Interrupt it at any moment: the same command resumes, and neither submits nor pays twice.
"""

import argparse
import shlex
import signal
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from scripts.batching import connection, lines
from scripts.batching.api import Api
from scripts.batching.batch import Batch
from scripts.batching.crew import Crew
from scripts.batching.errors import CannotGoOn
from scripts.batching.output import Output, Record
from scripts.batching.progress import Screen
from scripts.stack.problem import Problem

ALL_SUCCEEDED, SOME_FAILED, NOT_STARTED, STOPPED_EARLY, INTERRUPTED = 0, 1, 2, 3, 130
CODES = """exit codes:
  0    every line succeeded
  1    every line has ended, some failed
  2    nothing was done: wrong arguments, no API, wrong key
  3    stopped early (no credit, the API is away, a full disk); the same command resumes
  130  interrupted; the same command resumes
"""


def main() -> int:
    """Parse, run, explain; the exit code."""
    options = parse()
    console = Console(stderr=True, highlight=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    again = shlex.join(["scripts/batch", str(options.input), "-o", str(options.output)])
    resume = f"To resume: {again}"
    try:
        return run(options, console)
    except CannotGoOn as problem:
        explain(console, f"{problem} {resume}")
        return STOPPED_EARLY
    except Problem as problem:
        explain(console, str(problem))
        return NOT_STARTED
    except OSError as error:
        explain(console, f"{error.filename or options.output}: {error.strerror}. {resume}")
        return STOPPED_EARLY
    except KeyboardInterrupt:
        explain(console, f"Interrupted. {resume}")
        return INTERRUPTED


def run(options: argparse.Namespace, console: Console) -> int:
    """Do what is left of the batch."""
    survey = lines.survey(options.input)
    url, key = connection.find(options)
    screen = Screen(console, survey.lines)
    api = Api(url, key, threads=options.concurrency, patience=options.patience, tell=screen.tell)
    api.check()
    output = Output(options.output)
    batch_id = output.resume(survey.sha256)
    screen.resume(done=len(output.done), failed=len(output.done) - output.succeeded)
    with screen:
        work(options, Batch(api, batch_id), output=output, screen=screen)
    return finish(console, output, survey.lines)


def work(options: argparse.Namespace, batch: Batch, *, output: Output, screen: Screen) -> None:
    """Every line that has no result yet."""
    earlier = frozenset(output.done)
    left = (line for line in lines.read(options.input) if line.number not in earlier)
    crew: Crew[lines.Line | lines.BadLine, Record] = Crew(left, batch.do, options.concurrency)
    for record in crew.results():
        output.append(record)
        screen.note(record)


def finish(console: Console, output: Output, total: int) -> int:
    """Say how it went."""
    failed = total - output.succeeded
    colour, mark = ("red", "✗") if failed else ("green", "✓")
    text = f"{output.succeeded} of {total} lines succeeded"
    text += f", {failed} failed" if failed else ""
    console.print(Text(f"{mark} ", colour) + Text(f"{text}: {output.path}"), soft_wrap=True)
    return SOME_FAILED if failed else ALL_SUCCEEDED


def explain(console: Console, sentence: str) -> None:
    """Why we stop."""
    console.print(Text("✗ ", "bold red") + Text(sentence), soft_wrap=True)


def parse() -> argparse.Namespace:
    """What the user wants."""
    parser = argparse.ArgumentParser(
        prog="scripts/batch",
        description=__doc__,
        epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", type=Path, metavar="IN.jsonl")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.jsonl", required=True)
    parser.add_argument(
        "--concurrency", type=positive, default=32, metavar="N", help="jobs in flight (default: 32)"
    )
    parser.add_argument(
        "--patience",
        type=positive,
        default=600,
        metavar="SECONDS",
        help="how long to wait for an API that is away (default: 600)",
    )
    parser.add_argument("--url", help="default: GPTQUEUE_URL, else that of scripts/up")
    parser.add_argument("--key", help="default: GPTQUEUE_API_KEY, else that of scripts/up")
    return parser.parse_args()


def positive(text: str) -> int:
    """A whole number above 0."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
