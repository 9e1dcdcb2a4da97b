"""What the user has set, checked before anything starts; what is wrong is one sentence."""

from pathlib import Path

from pydantic import ValidationError

from app import catalog
from app.catalog import Model
from app.cli.admin.database import connect, read
from scripts.stack.problem import Problem
from workers.gpus import visible

__all__ = ["connect", "gpus", "models", "read"]


def models(file: Path) -> dict[str, Model]:
    """The enabled models of the catalog; raises Problem when it cannot be read or has none."""
    try:
        enabled = catalog.load(file).enabled()
    except ValueError as error:
        raise Problem(
            f"The catalog {file} cannot be used: {_reason(error.__cause__ or error)}. "
            "GPTQUEUE_CATALOG_FILE can name another one."
        ) from error
    if not enabled:
        raise Problem(f"The catalog {file} has no enabled model.")
    return enabled


def gpus(wanted: str) -> list[str]:
    """The GPUs that get a worker each, by number or UUID: "all", or some with commas between them.
    One empty name for no choice. Raises Problem where there is none, and for one named twice.
    """
    if not wanted:
        return [""]
    there = visible(read()) if wanted == "all" else [name.strip() for name in wanted.split(",")]
    if not there:
        raise Problem("--gpus all: NVIDIA's driver knows no GPU here.")
    if not all(there) or len(set(there)) < len(there):
        raise Problem(f"--gpus {wanted}: each GPU once, by number or UUID, such as 0,1.")
    return there


def _reason(error: BaseException) -> str:
    """What is wrong with the catalog, without the library's further advice."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
