"""Kill parts of GPTQueue at random under load, then check every promise in the database.

Everything runs for this alone, on free ports, and is stopped afterwards. The same seed draws the
same jobs and the same faults; what they hit depends on the machine. Exits 1 unless clean.
"""

import argparse
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass

from rich.console import Console

from scripts.arguments import count, positive
from scripts.benching import machine
from scripts.benching.notes import Notes
from scripts.breaking import audit, books, ground, settling, stage, verdict
from scripts.breaking.crew import Crew
from scripts.breaking.plans import Plans
from scripts.breaking.receiver import listening
from scripts.breaking.storm import Storm
from scripts.breaking.verdict import Line, Verdict
from scripts.stack.interrupts import Interrupts, Stopped
from scripts.stack.problem import Problem

JOBS_PER_SECOND = 10
CALM_SECONDS = 1.0  # before the first fault


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the user asked for."""

    seed: int
    minutes: float
    jobs: int

    @property
    def seconds(self) -> float:
        """How long jobs come and faults happen."""
        return self.minutes * 60


def main() -> int:
    """Parse, break, audit, show."""
    options = parse()
    run = Run(
        seed=options.seed, minutes=options.minutes, jobs=options.jobs or default_jobs(options)
    )
    notes, interrupts = Notes(), Interrupts()
    forget_settings()
    interrupts.install()
    where = machine.describe()
    notes.say(where)
    try:
        found = break_it(run, notes, interrupts)
    except Problem as problem:
        notes.say(f"✗ {problem}")
        return 1
    except Stopped:
        notes.say("Interrupted.")
        return 130
    if options.json:
        print(verdict.as_json(found, seed=run.seed, minutes=run.minutes))
    else:
        show(found, run, where)
    return 0 if found.clean else 1


def break_it(run: Run, notes: Notes, interrupts: Interrupts) -> Verdict:
    """The whole run; everything is stopped when this returns or raises."""
    with (
        listening(run.seed) as receiver,
        ground.folder() as place,
        stage.built(interrupts) as built,
    ):
        with notes.doing("starting PostgreSQL, Valkey, the API, three workers and beat"):
            built.open(place.folder, receiver)
        plans = Plans(run.seed, receiver.url)
        crew = Crew(built, plans, jobs=run.jobs, seconds=run.seconds)
        faults = rage(built, crew, run=run, notes=notes)
        with notes.doing("waiting until everything has come to rest"):
            settling.settle(crew, built)
        stored = books.read(built.database_url)
        lines = audit.lines(stored, crew.answers, plans, receiver=receiver)
        lines.append(Line("crashes", len(built.obituaries), problems=built.obituaries))
        found = Verdict(lines=lines, faults=faults, answers=crew.answers.statuses)
        if not found.clean:
            notes.say(f"The logs of all parts are in {place.keep()}")
    return found


def rage(built: stage.Stage, crew: Crew, *, run: Run, notes: Notes) -> Counter[str]:
    """Load and faults together; returns how often each fault struck."""
    notes.say(f"Seed {run.seed}: {run.jobs:,} jobs in {run.seconds:,.0f} s, by 5 customers.")
    storm = Storm(built, random.Random(run.seed), notes)
    crew.start()
    storm.rage(first=time.monotonic() + CALM_SECONDS, until=time.monotonic() + run.seconds)
    storm.calm()
    return storm.struck


def show(found: Verdict, run: Run, where: str) -> None:
    """The table, and what is needed to do it again."""
    console = Console(highlight=False)
    console.print(verdict.as_table(found))
    for sentence in verdict.sentences(found):
        console.print(sentence, style="red", markup=False, soft_wrap=True)
    again = f"scripts/chaos --seed {run.seed} --minutes {run.minutes:g} --jobs {run.jobs}"
    console.print(f"{where}\n{again}", style="dim", soft_wrap=True)


def forget_settings() -> None:
    """What is broken runs with settings of its own, whatever this shell is used for."""
    for name in list(os.environ):
        if name.startswith("GPTQUEUE_") or name in {"DATABASE_URL", "REDIS_URL", "SENTRY_DSN"}:
            del os.environ[name]


def parse() -> argparse.Namespace:
    """What the user wants."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10_000), help="default: a random one, printed"
    )
    parser.add_argument(
        "--minutes", type=positive, default=2.0, help="of load and faults (default: 2)"
    )
    parser.add_argument(
        "--jobs", type=count, help=f"submitted in that time (default: {JOBS_PER_SECOND} a second)"
    )
    parser.add_argument("--json", action="store_true", help="the verdict as one line")
    return parser.parse_args()


def default_jobs(options: argparse.Namespace) -> int:
    """A steady rate that two cores manage beside the restarts."""
    return max(1, round(options.minutes * 60 * JOBS_PER_SECOND))


if __name__ == "__main__":
    sys.exit(main())
