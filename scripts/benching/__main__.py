"""Measure GPTQueue, each figure beside a baseline taken in the same run.

A ratio above 1 means better than the baseline. Servers and processes are started for the
measurement, on free ports, and stopped afterwards; nothing that runs already is touched.
"""

import argparse
import os
import signal
import sys

from rich.console import Console

from scripts.arguments import count, positive
from scripts.benching import (
    batches,
    clients,
    figures,
    growth,
    jobs,
    machine,
    memory,
    recovery,
    submit,
    waiting,
    webhooks,
)
from scripts.benching.engine import command as engine
from scripts.benching.notes import Notes
from scripts.stack.problem import Problem

BENCHES = {
    "submit": submit,
    "jobs": jobs,
    "growth": growth,
    "waiting": waiting,
    "memory": memory,
    "recovery": recovery,
    "webhooks": webhooks,
    "clients": clients,
    "batches": batches,
    "engine": engine,
}


def main() -> int:
    """Parse, measure, show."""
    options = parse()
    notes = Notes()
    forget_settings()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    where = machine.describe()
    notes.say(where)
    try:
        found = BENCHES[options.bench].run(options, notes)
    except Problem as problem:
        notes.say(f"✗ {problem}")
        return 1
    except KeyboardInterrupt:
        notes.say("Interrupted.")
        return 130
    if options.json:
        print(figures.as_json(found))
    else:
        show(found, where)
    return 0


def forget_settings() -> None:
    """What is measured runs with the default settings, whatever this shell is used for."""
    for name in list(os.environ):
        if name.startswith("GPTQUEUE_") or name in {"DATABASE_URL", "REDIS_URL", "SENTRY_DSN"}:
            del os.environ[name]


def show(found: list[figures.Figure], where: str) -> None:
    """The table, and what is needed to take it again."""
    console = Console(highlight=False)
    console.print(figures.as_table(found))
    console.print(f"{where}\nscripts/bench {' '.join(sys.argv[1:])}", style="dim", soft_wrap=True)


def parse() -> argparse.Namespace:
    """What the user wants."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    commands = parser.add_subparsers(dest="bench", required=True)
    for name, bench in BENCHES.items():
        summary = (bench.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=bench.__doc__)
        add_options(command)
        if hasattr(bench, "add_options"):
            bench.add_options(command)
    return parser.parse_args()


def add_options(command: argparse.ArgumentParser) -> None:
    """Those of every benchmark."""
    command.add_argument("--json", action="store_true", help="one line: a list of figures")
    command.add_argument(
        "--seconds",
        type=positive,
        default=5.0,
        help="of each measurement (default: %(default)g)",
    )
    command.add_argument(
        "--rounds", type=count, default=3, help="measurements of each side (default: %(default)s)"
    )
    command.add_argument(
        "--connections",
        type=count,
        default=32,
        help="clients at once (default: %(default)s)",
    )


if __name__ == "__main__":
    sys.exit(main())
