"""Submit every line of a file of jobs, and write each result as it arrives.

A line of IN.jsonl is the body of a job, with two optional fields: "endpoint" ("chat", "generate"
or "complete"; by default what fits) and "custom_id" (default: the line's number). A line of
OUT.jsonl is {"line", "custom_id", "job"}, or {"line", "custom_id", "error"} for a line that is no
valid job. Every line that is not blank gets exactly one, in the order in which they end.

Interrupt it at any moment: the same command resumes, and neither submits nor pays twice.
"""

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console

from app.cli.batch.run import CODES, Plan, explain, run
from app.cli.problem import UNASKED
from scripts.arguments import count
from scripts.batching import connection
from scripts.stack.problem import Problem


def main() -> int:
    """Parse, run; the exit code."""
    options = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        url, key = connection.find(options)
    except Problem as problem:
        explain(Console(stderr=True, highlight=False), str(problem))
        return UNASKED
    plan = Plan(
        input=options.input,
        output=options.output,
        url=url,
        key=key,
        again=["scripts/batch", str(options.input), "-o", str(options.output)],
        concurrency=options.concurrency,
        patience=options.patience,
    )
    return run(plan)


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
        "--concurrency", type=count, default=32, metavar="N", help="jobs in flight (default: 32)"
    )
    parser.add_argument(
        "--patience",
        type=count,
        default=600,
        metavar="SECONDS",
        help="how long to wait for an API that is away (default: 600)",
    )
    parser.add_argument("--url", help="default: GPTQUEUE_URL, else that of scripts/up")
    parser.add_argument("--key", help="default: GPTQUEUE_API_KEY, else that of scripts/up")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
