"""Every setting, where it comes from and what it means; the only reader of the environment.

A setting ``lease_seconds`` is read from the variable ``GPTQUEUE_LEASE_SECONDS``; those that other
tools share (``DATABASE_URL``, ``REDIS_URL``, ``SENTRY_DSN``, ``CUDA_VISIBLE_DEVICES``) carry no
prefix.
``docs/configuration.md`` lists them all; a test compares the two.
"""

import os
import tomllib
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Network = IPv4Network | IPv6Network
Port = Annotated[int, Field(ge=1, le=65535)]
Ports = tuple[Port, Port]  # the first and the last of a range


class Settings(BaseSettings):
    """The settings of one process, frozen after start."""

    model_config = SettingsConfigDict(
        env_prefix="GPTQUEUE_", frozen=True, populate_by_name=True, extra="ignore"
    )

    database_url: str = Field(
        "postgresql://localhost/gptqueue",
        validation_alias="DATABASE_URL",
        description="PostgreSQL (14 or newer): jobs, results, money, webhooks.",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias="REDIS_URL",
        description="Redis or Valkey: the broker. It holds hints only; losing it loses no job.",
    )
    sentry_dsn: str = Field(
        "", validation_alias="SENTRY_DSN", description="Where errors are reported; empty: nowhere."
    )

    public_url: str = Field(
        "http://127.0.0.1:8000",
        description="The address clients use, without a trailing slash; it begins a job's urls.",
    )
    catalog_file: Path = Field(
        Path(__file__).with_name("catalog.toml"), description="The served models and their prices."
    )
    models_dir: Path = Field(
        Path(".local/models"), description="The folder that relative model paths start from."
    )
    metrics_token: str = Field(
        "", description="When set, /api/v1/metrics wants it as a bearer token; empty: public."
    )
    max_body_bytes: int = Field(
        1 << 20, ge=1024, description="The largest request body, in bytes; larger ones get 413."
    )
    max_file_bytes: int = Field(
        200_000_000,
        ge=1024,
        description="The largest file that may be uploaded, in bytes; larger ones get 413.",
    )
    call_wait_seconds: float = Field(
        590.0,
        gt=0,
        description="How long a call under /v1 waits for its job, before it says where to ask.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose pages may use the API, comma-separated; *: any; empty: none.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least severe level that is logged."
    )

    database_pool_size: int = Field(
        16, ge=1, description="Database connections per process, at most; two more for reads."
    )
    broker_timeout_seconds: float = Field(
        2.0,
        gt=0,
        description="How long a publish or a broker query may take before it is given up.",
    )

    lease_seconds: float = Field(
        15.0, gt=0, description="How long a worker owns a job without a heartbeat."
    )
    heartbeat_seconds: float = Field(
        5.0, gt=0, description="How often a worker renews the leases of its jobs."
    )
    cancel_poll_seconds: float = Field(
        1.0, gt=0, description="How often a worker looks for cancelled jobs among its own."
    )
    max_attempts: int = Field(
        3, ge=1, description="How often a job loses its worker before it is failed as worker_lost."
    )
    shutdown_grace_seconds: float = Field(
        20.0, ge=0, description="How long a worker that is to stop goes on with the jobs in hand."
    )
    default_deadline_seconds: int = Field(
        86_400, ge=1, description="The deadline of a job that names none, in seconds from submit."
    )
    sweep_seconds: float = Field(
        5.0, gt=0, description="How often lost jobs, deadlines and due webhooks are swept up."
    )
    requeue_grace_seconds: float = Field(
        10.0, ge=0, description="How old a queued job's last message is before it may be replaced."
    )

    engine_slots: int = Field(
        16, ge=1, description="Jobs that one worker decodes together, at most."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where models are loaded; auto: CUDA when there is one, else the CPU."
    )
    engine_stall_seconds: float = Field(
        120.0,
        gt=0,
        description="How long an engine may be silent with work in hand; then it ends.",
    )
    openai_api_key: str = Field(
        "", description='The key that servers of "openai" versions want; empty: none.'
    )
    cuda_visible_devices: str | None = Field(
        None,
        validation_alias="CUDA_VISIBLE_DEVICES",
        description="The GPUs that CUDA and the metrics see, comma-separated; unset: all.",
    )

    webhook_timeout_seconds: float = Field(
        15.0, gt=0, description="How long a webhook receiver may take to answer."
    )
    webhook_concurrency: int = Field(
        64, ge=1, description="Deliveries of a process at a time, at most."
    )
    webhook_concurrency_per_host: int = Field(
        8,
        ge=1,
        description="Deliveries of a process to one host at a time; twice per account.",
    )
    webhook_allowed_networks: Annotated[tuple[Network, ...], NoDecode] = Field(
        (),
        description="Private networks that webhooks may reach, comma-separated CIDR; else none.",
    )
    webhook_ports: Annotated[tuple[Ports, ...], NoDecode] = Field(
        ((80, 80), (443, 443), (1024, 65535)),
        description="Ports that webhooks may go to, but in those networks, where any will do.",
    )

    @field_validator("webhook_allowed_networks", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("webhook_ports", mode="before")
    @classmethod
    def _split_ports(cls, value: object) -> object:
        if isinstance(value, str):
            ranges = (part.partition("-") for part in value.split(","))
            return tuple((first, last if dash else first) for first, dash, last in ranges)
        return value

    @field_validator("public_url")
    @classmethod
    def _without_slash(cls, value: str) -> str:
        return value.rstrip("/")


class ClientSettings(BaseSettings):
    """The settings of the command line's customers: what reaches an API, over HTTP."""

    model_config = SettingsConfigDict(
        env_prefix="GPTQUEUE_", frozen=True, extra="forbid", env_ignore_empty=True
    )

    url: str = Field("", description="The API's address, such as http://127.0.0.1:8000.")
    api_key: str = Field("", description="The account's API key.")
    model: str = Field("", description="The model of chat and generate, where none is named.")
    webhook_secret: str = Field(
        "", description="The secret of webhooks listen; empty: the API is asked for it."
    )
    metrics_token: str = Field(
        "", description="What /api/v1/metrics wants, where it wants a token; for top."
    )


def client_settings(file: Path | None) -> ClientSettings:
    """The environment over this file, or over the user's own if there is one; raises OSError and
    ValueError for a file that cannot be used.
    """
    chosen = file or client_file()
    there = file is not None or chosen.exists()
    written = tomllib.loads(chosen.read_text()) if there else {}
    environment = ClientSettings().model_dump(exclude_unset=True)
    return ClientSettings(**{**written, **environment})


def client_file() -> Path:
    """Where the command line's settings are, if the user has written some down."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "gptqueue" / "config.toml"


@lru_cache(maxsize=1)
def current() -> Settings:
    """The settings of this process, read from the environment once."""
    return Settings()


def engine_environment() -> dict[str, str]:
    """The environment of an engine's process: this one's, but for how OpenMP's threads wait.

    Asleep (``OMP_WAIT_POLICY=PASSIVE``), waking them for the hundred parallel regions of a step
    takes 8 ms more; without limit awake, they slow a busy machine down tenfold. A short spin has
    neither fault. ``GOMP_SPINCOUNT`` is the operator's if set.
    """
    ours = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return {"GOMP_SPINCOUNT": "2000", **ours}
