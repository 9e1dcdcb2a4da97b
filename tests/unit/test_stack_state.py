import os
import socket
import stat
import subprocess
from pathlib import Path

import psutil
import pytest

from scripts.stack import ports, postgres, remembered, unprivileged
from scripts.stack.choices import Choices
from scripts.stack.problem import Problem
from scripts.stack.state import State

AWKWARD = 'it\'s "a" $HOME `date` \\ \n#value'


def test_a_shell_reads_back_exactly_what_was_written(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.write_env({"FIRST": AWKWARD, "SECOND": "2"})
    script = f'. "{state.env}"; printf "%s|%s" "$FIRST" "$SECOND"'
    sourced = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
    assert sourced.stdout == f"{AWKWARD}|2"
    assert state.read_env()["FIRST"] == AWKWARD
    assert stat.S_IMODE(state.env.stat().st_mode) == 0o600


def test_a_remembered_port_stays_while_it_is_free(tmp_path: Path) -> None:
    file = tmp_path / "port"
    first = remembered.port(file)
    assert remembered.port(file) == first
    with socket.socket() as taken:
        taken.bind((ports.LOCALHOST, first))
        taken.listen()
        assert remembered.port(file) != first


def test_a_secret_is_made_once_and_is_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    assert remembered.secret(file) == remembered.secret(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("port", ["0", "65536", "-1", "eighty", "8000.5"])
def test_what_is_no_port_is_refused(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTQUEUE_PORT", port)
    with pytest.raises(Problem, match="GPTQUEUE_PORT is"):
        Choices.of_environment()


def test_the_lock_of_a_dead_postgres_is_removed_and_that_of_a_living_one_kept(
    tmp_path: Path, postgres_url: str
) -> None:
    lock = tmp_path / "postmaster.pid"
    for stale in (f"{os.getpid()}\n/data\n", "99999999\n"):
        lock.write_text(stale)
        postgres.forget_stale_lock(lock)
        assert not lock.exists()
    living = next(each for each in psutil.process_iter() if each.name() == "postgres")
    lock.write_text(f"{living.pid}\n")
    postgres.forget_stale_lock(lock)
    assert lock.exists()


def test_an_interrupted_start_of_a_database_is_made_anew(tmp_path: Path) -> None:
    half_made = tmp_path / "data.new"
    half_made.mkdir()
    (half_made / "rubbish").touch()
    tmp_path.chmod(0o711)
    cluster = postgres.create(tmp_path) if unprivileged.reaches(tmp_path) else None
    assert cluster is None or (cluster.data / "PG_VERSION").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a home that PostgreSQL cannot enter")
def test_in_a_folder_closed_to_others_postgres_gets_a_place_that_wiping_removes(
    tmp_path: Path,
) -> None:
    state = State(tmp_path / "closed")
    state.folder.mkdir(mode=0o700)
    elsewhere = unprivileged.home(state.postgres)
    try:
        assert unprivileged.reaches(elsewhere)
        assert state.postgres.resolve() == elsewhere
        assert unprivileged.home(state.postgres) == elsewhere
    finally:
        state.wipe()
    assert not elsewhere.exists()
    assert not state.folder.exists()
