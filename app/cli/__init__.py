"""The command ``gptqueue``: customers' commands over HTTP, operators' against the database.

``program.py`` names the commands; the module of one is imported when it is asked for. So a
customer's command loads neither SQLAlchemy nor Celery nor Flask, and ``--help`` is quick.
"""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    from app.cli.program import run

    return run(arguments)
