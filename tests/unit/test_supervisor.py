import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from scripts.stack import pidfiles
from scripts.stack.interrupts import Interrupts, Stopped
from scripts.stack.journal import Journal
from scripts.stack.problem import Problem
from scripts.stack.processes import Command
from scripts.stack.screen import Screen
from scripts.stack.supervisor import Backoff, Part, Supervisor

PATIENCE_SECONDS = 30


class Rig:
    """A supervisor that works in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.printed = StringIO()
        self.interrupts = Interrupts()
        screen = Screen(Console(file=self.printed, highlight=False, width=200))
        self.journal = Journal(folder, screen)
        self.supervisor = Supervisor(
            run=folder,
            cwd=folder,
            journal=self.journal,
            screen=screen,
            interrupts=self.interrupts,
            backoff=Backoff(first_seconds=0.01, most_seconds=0.02),
        )

    def part(self, name: str, program: str, **options: float) -> Part:
        """A part that runs this Python program; it is ready when it has written its file."""
        command = Command([sys.executable, "-c", program], {"READY": str(self.folder / name)})
        return Part(
            name=name, command=lambda: command, ready=(self.folder / name).exists, **options
        )

    def process(self, name: str) -> psutil.Process | None:
        """The running process of a part."""
        return pidfiles.process_of(self.folder / f"{name}.pid")

    def tend_until(self, condition: Callable[[], bool]) -> None:
        """Supervise until something is so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.printed.getvalue()
            self.supervisor.tend()
            time.sleep(0.01)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.supervisor.stop()
    rig.journal.close()


READY = "import os, pathlib, time; pathlib.Path(os.environ['READY']).touch(); "
SERVER = READY + "time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SERVER
PARENT = "import subprocess; subprocess.Popen(['sleep', '600']); " + SERVER


def test_a_part_that_dies_while_starting_is_a_problem_with_its_last_words(rig: Rig) -> None:
    with pytest.raises(Problem, match=r"(?s)broken stopped .*exit code 3.*no luck"):
        rig.supervisor.start(rig.part("broken", "print('no luck'); raise SystemExit(3)"))


def test_a_program_that_does_not_exist_is_a_problem_that_names_it(rig: Rig) -> None:
    missing = Part(name="x", command=lambda: Command(["/no/such/program"]), ready=lambda: False)
    with pytest.raises(Problem, match="/no/such/program: No such file"):
        rig.supervisor.start(missing)


def test_another_part_that_dies_meanwhile_is_noticed_too(rig: Rig) -> None:
    rig.supervisor.start(rig.part("first", READY + "time.sleep(0.5)"))
    with pytest.raises(Problem, match="first stopped"):
        rig.supervisor.start(rig.part("second", "import time; time.sleep(600)"))


def test_a_part_that_never_gets_ready_is_a_problem(rig: Rig) -> None:
    with pytest.raises(Problem, match="did not get ready in time"):
        rig.supervisor.start(rig.part("slow", "import time; time.sleep(600)", ready_seconds=0.1))


def test_a_part_that_is_busy_may_take_longer(rig: Rig) -> None:
    slow = rig.part("slow", "import time; time.sleep(0.5); " + SERVER, ready_seconds=0.1)
    rig.supervisor.start(replace(slow, busy=lambda: True))
    assert rig.process("slow")


def test_a_part_that_dies_later_is_restarted_and_the_log_says_so(rig: Rig) -> None:
    rig.supervisor.start(rig.part("server", SERVER))
    first = rig.process("server")
    assert first is not None
    first.kill()
    rig.tend_until(lambda: rig.process("server") not in (None, first))
    log = (rig.folder / "up.log").read_text()
    assert "server stopped unexpectedly (killed by signal 9); restarting in 0.01 s" in log
    assert "server restarted as process" in log


def test_a_part_that_keeps_dying_waits_longer_each_time_up_to_a_limit(rig: Rig) -> None:
    backoff = Backoff(first_seconds=1, most_seconds=30)
    assert [backoff.delay(failures) for failures in (1, 2, 3, 4, 5, 6, 7, 5000)] == [
        1, 2, 4, 8, 16, 30, 30, 30,
    ]  # fmt: skip
    rig.supervisor.start(rig.part("server", READY + "time.sleep(0.2)"))
    log = rig.folder / "up.log"
    rig.tend_until(lambda: log.exists() and log.read_text().count("restarted") >= 3)
    assert "restarting in 0.02 s" in log.read_text()


def test_stopping_ends_every_part_the_last_first(rig: Rig) -> None:
    rig.supervisor.start(rig.part("one", SERVER), rig.part("two", SERVER))
    running = [rig.process("one"), rig.process("two")]
    rig.supervisor.stop()
    assert not any(process and process.is_running() for process in running)
    assert not list(rig.folder.glob("*.pid"))
    printed = rig.printed.getvalue()
    assert printed.index("two has stopped") < printed.index("one has stopped")


def test_a_part_makes_way_for_who_computes(rig: Rig) -> None:
    rig.supervisor.start(rig.part("server", SERVER))
    process = rig.process("server")
    assert process is not None
    assert os.sched_getscheduler(process.pid) == os.SCHED_BATCH


def test_a_part_that_ignores_the_signal_is_killed_after_its_grace(rig: Rig) -> None:
    rig.supervisor.start(rig.part("stubborn", STUBBORN, grace_seconds=0.1))
    process = rig.process("stubborn")
    rig.supervisor.stop()
    assert process is not None
    assert not process.is_running()


def test_the_children_of_a_part_go_with_it(rig: Rig) -> None:
    rig.supervisor.start(rig.part("parent", PARENT))
    process = rig.process("parent")
    assert process is not None
    (child,) = process.children()
    rig.supervisor.stop()
    wait_until(lambda: not pidfiles.is_alive(child))  # nobody here can wait for a grandchild


def test_a_command_that_fails_is_a_problem_and_one_that_works_is_not(rig: Rig) -> None:
    rig.supervisor.finish("works", Command([sys.executable, "-c", "print('fine')"]))
    with pytest.raises(Problem, match=r"(?s)fails failed.*ZeroDivisionError"):
        rig.supervisor.finish("fails", Command([sys.executable, "-c", "1 / 0"]))


def test_a_signal_during_a_start_waits_until_the_child_is_known(rig: Rig) -> None:
    with pytest.raises(Stopped), rig.interrupts.held():
        rig.interrupts._handle(15, None)
        known = True
    assert known


def test_a_part_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Also when that one is killed and cannot stop anything any more."""
    program = (
        "import subprocess, sys; from pathlib import Path;"
        "from scripts.stack.processes import Command, start;"
        f"part = start(Command(['sleep', '600']), subprocess.DEVNULL, Path({str(tmp_path)!r}));"
        "print(part.pid, flush=True); sys.stdin.readline()"
    )
    parent = psutil.Popen(
        [sys.executable, "-c", program], stdin=-1, stdout=-1, cwd=Path(__file__).parents[2]
    )
    with parent:
        part = psutil.Process(int(parent.stdout.readline()))
        wait_until(lambda: part.name() == "sleep")
        parent.kill()
        parent.wait()
    wait_until(lambda: not pidfiles.is_alive(part))


def test_a_process_younger_than_its_pid_file_is_a_stranger(tmp_path: Path) -> None:
    file = pidfiles.write(tmp_path, "part", os.getpid())
    assert pidfiles.process_of(file) == psutil.Process()
    long_ago = psutil.Process().create_time() - 1000
    os.utime(file, (long_ago, long_ago))
    assert pidfiles.process_of(file) is None


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something to become so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
