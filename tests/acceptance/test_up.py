"""scripts/up and scripts/down as a user runs them, with the fake engine for a model."""

import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests

from scripts.stack import pidfiles, ports

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 90
PARTS = {"api", "worker-fake", "delivery", "beat", "flower", "postgres", "valkey"}
CATALOG = """
[models.fake]
enabled = true
context_length = 2048
input_price_micros = 50_000
output_price_micros = 200_000
version = "1"
[models.fake.versions.1]
source = "fake:"
engine = "fake"
"""


class Local:
    """A state folder, in a path with spaces, and the commands that work on it."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "the state's folder"
        catalog = folder / "catalog.toml"
        catalog.write_text(CATALOG)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "GPTQUEUE_STATE_DIR": str(self.state),
            "GPTQUEUE_CATALOG_FILE": str(catalog),
            "GPTQUEUE_PORT": str(ports.find_free()),
            "GPTQUEUE_FLOWER_PORT": str(ports.find_free()),
        }

    @contextmanager
    def up(self) -> Iterator[subprocess.Popen[str]]:
        """scripts/up, once it says how to stop it; gone after the block."""
        with self.start("up") as process:
            try:
                wait_for_line(process, "Stop ")
                yield process
            finally:
                process.send_signal(signal.SIGINT)

    def start(self, command: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command; its environment exists already, so the bash around it is left out."""
        return subprocess.Popen(
            [sys.executable, "-m", f"scripts.stack.{command}", *arguments],
            env={**self.environment, **environment},
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self, command: str, *arguments: str, patience: float = PATIENCE_SECONDS, **environment: str
    ) -> tuple[int, str]:
        """The exit code and what was printed."""
        with self.start(command, *arguments, **environment) as process:
            try:
                printed = process.communicate(timeout=patience)[0]
            finally:
                process.terminate()
        return process.returncode, printed

    def log(self, part: str) -> str:
        """What a part has logged."""
        return (self.state / "log" / f"{part}.log").read_text()

    def running(self) -> dict[str, psutil.Process]:
        """The parts that run."""
        return pidfiles.living(self.state / "run")

    def exported(self) -> dict[str, str]:
        """What a shell has that sourced the env file."""
        script = f". {shlex.quote(str(self.state / 'env'))} && {shlex.quote(sys.executable)} -c "
        script += shlex.quote("import json, os; print(json.dumps(dict(os.environ)))")
        answer = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True)
        exported: dict[str, str] = json.loads(answer.stdout)
        return exported


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    folder = tmp_path_factory.mktemp("up")
    local = Local(folder)
    yield local
    assert local.run("down", "--wipe")[0] == 0


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for something to become so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def test_once_does_a_whole_job_and_leaves_nothing_running(local: Local) -> None:
    code, printed = local.run("up", "--once")
    assert code == 0, printed + local.log("delivery")
    assert "signature verified" in printed
    assert "/ 1,000,000, rounded up = " in printed
    assert "\x1b[" not in printed, "colours in a pipe"
    assert not local.running()


def test_the_second_run_has_the_same_account_and_address(local: Local) -> None:
    before = local.exported()
    code, printed = local.run("up", "--once")
    assert code == 0, printed
    after = local.exported()
    for name in ("GPTQUEUE_API_KEY", "GPTQUEUE_WEBHOOK_SECRET", "DATABASE_URL", "FLOWER_PASSWORD"):
        assert after[name] == before[name]


def test_what_other_shells_need_is_for_the_owner_only(local: Local) -> None:
    assert stat.S_IMODE((local.state / "env").stat().st_mode) == 0o600


def test_a_port_in_use_is_named_with_the_way_to_change_it(local: Local) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, printed = local.run("up", "--once", GPTQUEUE_FLOWER_PORT=port)
    assert code == 1
    assert f"Port {port} is in use" in printed
    assert "GPTQUEUE_FLOWER_PORT=" in printed


def test_a_port_that_is_none_is_refused(local: Local) -> None:
    code, printed = local.run("up", GPTQUEUE_PORT="eighty")
    assert (code, printed) == (
        1,
        "✗ GPTQUEUE_PORT is 'eighty'; it must be a port number, such as 8000.\n",
    )


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("GPTQUEUE_CATALOG_FILE", "/no/such/file", "The catalog /no/such/file cannot be used: No"),
        ("GPTQUEUE_CATALOG_FILE", __file__, f"The catalog {__file__} cannot be used: "),
        ("GPTQUEUE_LEASE_SECONDS", "abc", "GPTQUEUE_LEASE_SECONDS is 'abc': "),
        ("DATABASE_URL", "garbage", "DATABASE_URL is no address of a database"),
        ("REDIS_URL", "garbage", "REDIS_URL is no address of a broker"),
        ("GPTQUEUE_STATE_DIR", f"{__file__}/x", f"The folder {__file__}/x/log cannot be made: "),
        ("GPTQUEUE_FLOWER_PORT", "8000", "GPTQUEUE_PORT and GPTQUEUE_FLOWER_PORT are both 8000"),
    ],
)
def test_a_setting_that_cannot_be_used_is_told_in_one_sentence(
    local: Local, variable: str, value: str, sentence: str
) -> None:
    ports_of_both = {"GPTQUEUE_PORT": "8000"} if value == "8000" else {}
    code, printed = local.run("up", **{variable: value, **ports_of_both})
    assert code == 1, printed
    assert printed.startswith(f"✗ {sentence}")
    assert printed.count("\n") == 1


def test_a_database_that_does_not_answer_is_named(local: Local) -> None:
    dead = f"postgresql://nobody@127.0.0.1:{ports.find_free()}/nothing"
    code, printed = local.run("up", DATABASE_URL=dead)
    assert code == 1
    assert "The database in DATABASE_URL does not answer" in printed


def test_a_part_that_dies_while_starting_stops_the_rest_and_says_why(local: Local) -> None:
    code, printed = local.run("up", "--once", FLOWER_CONF="/no/such/file")
    assert code == 1
    assert "flower stopped while starting" in printed
    assert "/no/such/file" in printed
    assert not local.running()


def test_it_stays_up_restarts_what_dies_and_stops_on_a_signal(local: Local) -> None:
    with local.up() as up:
        running = local.running()
        assert set(running) == {*PARTS, "up"}
        assert local.run("up")[0] == 1, "a second one beside it"
        check_flower(local)
        for part in ("postgres", "valkey", "worker-fake"):
            kill_and_await_return(local, part)
        wait_until(lambda: chat(local)["status"] == "succeeded")
        up.send_signal(signal.SIGINT)
        printed = up.communicate(timeout=PATIENCE_SECONDS)[0]
    assert up.returncode == 0
    assert "postgres stopped unexpectedly (killed by signal 9); restarting in 1 s" in printed
    assert not local.running()
    assert not any(pidfiles.is_alive(process) for process in running.values())


def test_down_stops_up_and_all_its_parts(local: Local) -> None:
    with local.up() as up:
        running = local.running()
        code, printed = local.run("down")
        assert code == 0
        assert "and its parts have stopped" in printed
        up.communicate(timeout=PATIENCE_SECONDS)
    assert not any(pidfiles.is_alive(process) for process in running.values())


def test_a_killed_up_takes_its_parts_along(local: Local) -> None:
    with local.up() as up:
        running = local.running()
        up.kill()
        up.communicate(timeout=PATIENCE_SECONDS)
    wait_until(lambda: not any(pidfiles.is_alive(process) for process in running.values()))
    assert local.run("down") == (0, "Nothing was running.\n")


def test_wiping_removes_the_state_and_nothing_else(local: Local) -> None:
    stranger = local.state / "a stranger's file"
    stranger.touch()
    code, printed = local.run("down", "--wipe")
    assert code == 0, printed
    assert list(local.state.iterdir()) == [stranger]


def wait_for_line(process: subprocess.Popen[str], beginning: str) -> None:
    """Read what it prints up to there."""
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.startswith(beginning):
            return
    raise AssertionError("".join(printed))


def kill_and_await_return(local: Local, part: str) -> None:
    """Kill a part; another process must take its place."""
    old = local.running()[part]
    old.kill()
    wait_until(lambda: local.running().get(part) not in (None, old))


def check_flower(local: Local) -> None:
    """Flower knows the workers and their queues, and tells only those who log in."""
    exported = local.exported()
    flower = f"{exported['FLOWER_URL']}/api"
    login = (exported["FLOWER_USER"], exported["FLOWER_PASSWORD"])
    assert requests.get(f"{flower}/workers", timeout=10).status_code == 401

    def queues() -> set[str]:
        answer = requests.get(f"{flower}/queues/length", auth=login, timeout=10).json()
        return {queue["name"] for queue in answer["active_queues"]}

    wait_until(lambda: queues() == {"generate.fake", "webhooks", "maintenance"})
    workers = requests.get(f"{flower}/workers", auth=login, timeout=10).json()
    assert {name.split("@")[0] for name in workers} == {"worker-fake", "delivery"}


def chat(local: Local) -> dict[str, str]:
    """What the README's curl line does."""
    exported = local.exported()
    try:
        answer = requests.post(
            f"{exported['GPTQUEUE_URL']}/api/v1/chat",
            json={"model": "fake", "messages": [{"role": "user", "content": "Hello!"}]},
            headers={
                "Authorization": f"Bearer {exported['GPTQUEUE_API_KEY']}",
                "Prefer": "wait=10",
            },
            timeout=30,
        )
    except requests.ConnectionError:
        return {"status": "not reachable"}
    job: dict[str, str] = answer.json()
    return job if answer.ok else {"status": f"{answer.status_code}"}


@pytest.mark.model
@pytest.mark.timeout(900)
def test_the_demo_model_answers_once(tmp_path: Path) -> None:
    """The real thing, as a newcomer sees it; the model is made in the usual place, once."""
    local = Local(tmp_path)
    del local.environment["GPTQUEUE_CATALOG_FILE"]
    folder = str(ROOT / ".local" / "models")
    code, printed = local.run("up", "--once", patience=850, GPTQUEUE_MODELS_DIR=folder)
    assert code == 0, printed
    assert local.run("down", "--wipe")[0] == 0
