"""A job's server-sent events, from its submit to its end, over as many connections as it takes."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from requests import Response, exceptions
from urllib3.exceptions import HTTPError

from app.cli.client import BUSY, SILENCE_SECONDS, Client, Json, Unreachable, read
from app.cli.problem import Problem

PATIENCE_SECONDS = 120.0  # for an API that is away; the job goes on without us
RETRY_SECONDS = 1.0
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Event:
    """How the job stands ("status"), text ("delta"), or the whole job ("end")."""

    name: str
    data: Json
    id: str


@dataclass(slots=True)
class Following:
    """One reader of one job."""

    client: Client
    job_id: str
    last: str = field(default="", init=False)  # the id of the last event that came

    def events(self) -> Iterator[Event]:
        """What happens, up to and with the end; raises Problem when the API stays away."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                for event in self._connection():
                    yield event
                    if event.name == "end":
                        return
                    give_up = time.monotonic() + PATIENCE_SECONDS
                reason = "the connection broke."
            except Unreachable as error:
                reason = str(error)
            if time.monotonic() > give_up:
                raise Problem(
                    f"{self.client.url}: {reason} The job goes on; when the API is back: "
                    f"gptqueue jobs wait {self.job_id}"
                )
            time.sleep(RETRY_SECONDS)

    def _connection(self) -> Iterator[Event]:
        headers = {"Last-Event-ID": self.last} if self.last else {}
        path = f"/jobs/{self.job_id}/events"
        with self.client.send(
            "GET", path, headers=headers, stream=True, timeout=SILENCE_SECONDS
        ) as answer:
            if answer.status_code in BUSY:
                raise Unreachable(f"HTTP {answer.status_code}.", refused=False)
            if answer.status_code == 204:  # we have had all of it
                yield Event("end", self.client.job(self.job_id), "end")
                return
            if answer.status_code != 200:
                read(answer)
            for event in parse(_lines(answer)):
                self.last = event.id or self.last
                yield event


def parse(lines: Iterator[str]) -> Iterator[Event]:
    """The events of a stream; one that broke off is none."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if not line:
            if "data" in fields:
                data = json.loads(fields["data"])
                yield Event(fields.get("event", ""), data, fields.get("id", ""))
            fields = {}
        elif name:  # else it is a comment, which says that somebody is there
            fields[name] = value.removeprefix(" ")


def _lines(answer: Response) -> Iterator[str]:
    rest = b""
    try:
        # Whatever has come, at once; requests' own iterators wait for a number of bytes.
        while piece := answer.raw.read1(_PIECE_BYTES, decode_content=True):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line.decode().removesuffix("\r")
    except (HTTPError, exceptions.RequestException, OSError):
        raise Unreachable("the connection broke.", refused=False) from None
