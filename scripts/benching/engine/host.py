"""A contestant in a process of its own, where it finds neither our threads nor another's memory."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

import psutil

from scripts.benching.engine.work import PATIENCE_SECONDS, Answer, Contestant, Failed, Work

POLL_SECONDS = 0.02
STOP_SECONDS = 20
START_SECONDS = 180


class Host:
    """Our end of that process."""

    def __init__(self, name: str, make: Callable[[], Contestant]) -> None:
        """Start it and have ``make`` called there; raises Failed, with its reason."""
        self.name = name
        spawning = multiprocessing.get_context("spawn")
        self._ours, theirs = spawning.Pipe()
        self._process = spawning.Process(target=serve, args=(theirs, make), name=name)
        self._process.start()
        theirs.close()
        try:
            self._receive(START_SECONDS)
        except Failed:
            self.close()
            raise

    def ask(self, work: Work, *, seconds: float = 2 * PATIENCE_SECONDS) -> list[Answer]:
        """Have the contestant do this; raises Failed also when it came up with other tokens, or
        took longer than so many ``seconds``.
        """
        self._ours.send(work)
        return self._checked(self._receive(seconds), work)

    def peak_bytes(self, work: Work) -> int:
        """The most resident memory of the process and its children while it does this work."""
        family = self._family()
        self._ours.send(work)
        peak = _resident(family)
        while not self._ours.poll(POLL_SECONDS):
            peak = max(peak, _resident(family))
        self._checked(self._receive(PATIENCE_SECONDS), work)
        return max(peak, _resident(family))

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._ours.send(None)
        self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            for each in self._family():
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            self._process.join()
        self._ours.close()

    def _family(self) -> list[psutil.Process]:
        process = psutil.Process(self._process.pid)
        return [process, *process.children(recursive=True)]

    def _receive(self, seconds: float) -> list[Answer]:
        try:
            if not self._ours.poll(seconds):
                raise Failed(f"Nothing was heard of it for {seconds} seconds.")
            received = self._ours.recv()
        except (EOFError, OSError) as error:
            raise Failed("Its process has ended.") from error
        if isinstance(received, str):
            raise Failed(received)
        answers: list[Answer] = received
        return answers

    def _checked(self, answers: list[Answer], work: Work) -> list[Answer]:
        if any(answer.tokens != work.tokens for answer in answers):
            found = sorted({answer.tokens for answer in answers})
            raise Failed(f"It generated {found} tokens per request, not {work.tokens}.")
        return answers


def serve(connection: Connection, make: Callable[[], Contestant]) -> None:
    """The process's own end: make the contestant, then do what is asked until None is."""
    # What the libraries print there must not get among the figures.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        contestant = make()
    except Failed as error:
        connection.send(str(error))
        return
    connection.send([])
    try:
        while work := connection.recv():
            connection.send(_answers(contestant, work))
    except (EOFError, KeyboardInterrupt):
        pass
    finally:
        contestant.close()


def _answers(contestant: Contestant, work: Work) -> list[Answer] | str:
    try:
        return contestant.ask(work)
    except Failed as error:
        return str(error)


def _resident(family: list[psutil.Process]) -> int:
    total = 0
    for each in family:
        with suppress(psutil.NoSuchProcess):
            total += each.memory_info().rss
    return total
