"""The API on a real port, and a worker that takes jobs as they come."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask
from redis import Redis
from werkzeug.serving import make_server

from app.queues import MAINTENANCE
from workers.generate import generate
from workers.process import Process

HANDS = 8


@contextmanager
def served(api: Flask) -> Iterator[str]:
    """The address of the API, which runs on threads."""
    server = make_server("127.0.0.1", 0, api, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def working(process: Process, queue: str = "generate.fake") -> Iterator[None]:
    """Several threads of a worker that look for jobs all the time."""
    stopping = threading.Event()

    def work() -> None:
        while not stopping.wait(0.02):
            generate(process, process.servings[queue])

    threads = [threading.Thread(target=work) for _ in range(HANDS)]
    for each in threads:
        each.start()
    try:
        yield
    finally:
        stopping.set()
        process.close()
        for each in threads:
            each.join()


@contextmanager
def maintaining(process: Process) -> Iterator[None]:
    """A maintenance worker that batches are looked after by when a message says so."""
    stopping = threading.Event()

    def look() -> None:
        with Redis.from_url(process.settings.redis_url) as redis:
            while not stopping.wait(0.02):
                if redis.rpop(MAINTENANCE):
                    process.feeder.wake()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        process.feeder.stop()
