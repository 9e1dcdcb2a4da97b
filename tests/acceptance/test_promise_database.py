"""PostgreSQL ends its connections, or crashes, under load: clients are told so, nothing is lost."""

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
import requests

from scripts.stack import postgres
from scripts.stack.postgres import Cluster
from tests.acceptance.promises import STEADY, Account, Answer, catalog, new_keys, open_account
from tests.acceptance.stack import Part, Stack, eventually
from tests.conftest import migrate

CLIENTS = 4
AGAIN_SECONDS = 0.05


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="gptqueue-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield postgres.create(Path(name, "postgres"), durable=True)


@pytest.fixture(scope="module")
def server(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Part]:
    """A PostgreSQL of this module's own, to be crashed and started."""
    part = Part(cluster.command(), tmp_path_factory.mktemp("postgres") / "log")
    part.start()
    eventually(cluster.ready, "the database is up")
    yield part
    part.stop()


@pytest.fixture(scope="module")
def module_database_url(cluster: Cluster, server: Part) -> str:
    """In place of the server that all other modules share."""
    migrate(cluster.url, "head")
    return cluster.url


@pytest.fixture(scope="module")
def parts(stack: Stack) -> list[Part]:
    """Everything, running."""
    stack.settings.catalog_file.write_text(catalog(fake=STEADY))
    return [stack.api(), stack.beat(), stack.delivery(), stack.worker("fake")]


def end_all_connections(cluster: Cluster, server: Part) -> None:
    """As an administrator can."""
    connection = psycopg2.connect(cluster.url)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        assert cursor.rowcount > CLIENTS
    connection.close()


def crash_and_start(cluster: Cluster, server: Part) -> None:
    """Away for a second; the start recovers from the log."""
    server.process.send_signal(signal.SIGQUIT)
    server.process.wait(30)
    time.sleep(1)
    server.start()
    eventually(cluster.ready, "the database is up again")


def restart(cluster: Cluster, server: Part) -> None:
    """As for an upgrade: in order, and at once."""
    server.process.send_signal(signal.SIGINT)
    server.process.wait(30)
    server.start()
    eventually(cluster.ready, "the database is up again")


@pytest.mark.parametrize("harm", [end_all_connections, restart, crash_and_start])
def test_a_database_that_goes_away_under_load_loses_nothing_and_clients_are_told_to_try_again(
    stack: Stack,
    parts: list[Part],
    cluster: Cluster,
    server: Part,
    harm: Callable[[Cluster, Part], None],
) -> None:
    account = open_account(stack)
    with under_load(account) as (answers, job_ids):
        eventually(lambda: len(job_ids) > 10, "there is load")
        harm(cluster, server)
        before = len(job_ids)
        eventually(lambda: len(job_ids) > before + 20, "the load goes on")

    account.assert_each_succeeded_once(job_ids)
    assert {answer.status for answer in answers} <= {200, 202, 503}
    refused = [answer for answer in answers if answer.status == 503]
    assert refused
    for answer in refused:
        assert answer.json["code"] == "database_unavailable"
        assert int(answer.headers["Retry-After"]) > 0
    assert [line for line in parts[0].log.read_text().splitlines() if "Traceback" in line] == []
    assert parts[0].events("exception") == []
    assert [part.process.poll() for part in parts] == [None] * len(parts)


@contextmanager
def under_load(account: Account) -> Iterator[tuple[list[Answer], list[str]]]:
    """Clients submit and read all the time, and try again until it is accepted; all that they were
    answered, and their jobs.
    """
    answers: list[Answer] = []
    job_ids: list[str] = []
    stopping = threading.Event()

    def accepted(key: str) -> str:
        while True:
            answer = account.submit(key, max_tokens=1)
            assert answer, "the API itself was never away"
            answers.extend([answer, usage(account)])
            if answer.status != 503:
                return answer.json["id"]
            time.sleep(AGAIN_SECONDS)

    def client() -> None:
        while not stopping.is_set():
            job_ids.append(accepted(*new_keys(1)))

    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(client) for _ in range(CLIENTS)]
        try:
            yield answers, job_ids
        finally:
            stopping.set()
        for each in clients:
            each.result()


def usage(account: Account) -> Answer:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {account.key}"
        answer = session.get(f"{account.url}/api/v1/usage", timeout=60)
        return Answer(answer.status_code, answer.json(), dict(answer.headers))
