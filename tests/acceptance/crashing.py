"""An API that is killed when it comes to a named point: ``tests.acceptance.crashing:create_app()``.

A test writes the name of a point into the file that CRASH_FILE names. The process that comes there
first takes the file away and dies as by SIGKILL; the others go on.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from flask import Flask
from sqlalchemy.orm import Session

from app import api, config, schema
from app.api.submitting import Submitter
from app.db import Database
from app.queues import Broker

POINTS = ["before_commit", "after_commit", "before_publish", "after_publish"]
WORKER_POINTS = ["before_claim", "after_claim", "before_finish", "after_commit", "after_finish"]
DELIVERY_POINTS = ["delivery_unclaimed", "delivery_claimed", "delivery_sent", "delivery_unmarked"]
DELIVERY_POINTS += ["delivery_marked"]
ENGINE_POINT = "engine_dies"  # for good, under a job
POISON = "poison"  # a prompt that kills the worker


def arm(file: Path, point: str) -> None:
    """Let the next process that comes to this point die there."""
    fresh = file.with_suffix(".new")
    fresh.write_text(point)
    fresh.rename(file)


def reach(point: str) -> None:
    """Die here, if that is what a test wants and nobody else has done it."""
    if is_meant(point):
        os.kill(os.getpid(), signal.SIGKILL)


def is_meant(point: str) -> bool:
    """Whether a test wants something to die here, and nobody else has done it."""
    file = Path(os.environ["CRASH_FILE"])
    try:
        if file.read_text() != point:
            return False
        file.unlink()
    except FileNotFoundError:
        return False
    return True


class CrashingDatabase(Database):
    """Two points around the commit."""

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """As in Database."""
        with super().transaction() as session:
            yield session
            reach("before_commit")
        reach("after_commit")


class CrashingBroker(Broker):
    """Two points around the publish."""

    def enqueue_jobs(self, jobs: Sequence[tuple[str, UUID]]) -> None:
        """As in Broker."""
        reach("before_publish")
        super().enqueue_jobs(jobs)
        reach("after_publish")


def create_app() -> Flask:
    """The API, whose submits go through the points."""
    settings = config.current()
    app = api.create_app(settings)
    submitter = Submitter(
        settings, CrashingDatabase(settings, schema.metadata), CrashingBroker(settings)
    )
    app.extensions["gptqueue"] = replace(app.extensions["gptqueue"], submitter=submitter)
    return app
