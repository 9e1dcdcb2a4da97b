"""What the user of ``scripts/up`` can choose, all of it through the environment."""

import os
from dataclasses import dataclass

from scripts.stack import ports
from scripts.stack.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Ports, and servers that the user brings along."""

    port: int
    flower_port: int
    database_url: str
    redis_url: str

    @classmethod
    def of_environment(cls) -> "Choices":
        """Read them; raises Problem for what is no port, and for one port used twice."""
        port = _port("GPTQUEUE_PORT", 8000)
        flower_port = _port("GPTQUEUE_FLOWER_PORT", 5555)
        if port == flower_port:
            raise Problem(f"GPTQUEUE_PORT and GPTQUEUE_FLOWER_PORT are both {port}; they differ.")
        return cls(
            port=port,
            flower_port=flower_port,
            database_url=os.environ.get("DATABASE_URL", ""),
            redis_url=os.environ.get("REDIS_URL", ""),
        )

    @property
    def url(self) -> str:
        """Where the API listens."""
        return f"http://{ports.LOCALHOST}:{self.port}"

    @property
    def flower_url(self) -> str:
        """Where Flower listens."""
        return f"http://{ports.LOCALHOST}:{self.flower_port}"

    def check_ports(self) -> None:
        """Raise Problem when something else listens where we want to."""
        wanted = {"GPTQUEUE_PORT": self.port, "GPTQUEUE_FLOWER_PORT": self.flower_port}
        for variable, port in wanted.items():
            if not ports.is_free(port):
                raise Problem(
                    f"Port {port} is in use by another program. Choose another one: "
                    f"{variable}={ports.find_free()} ./scripts/up"
                )


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise Problem(f"{variable} is {text!r}; it must be a port number, such as {default}.")
    return int(text)
