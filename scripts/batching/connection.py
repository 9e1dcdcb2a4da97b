"""Which API, and with which key."""

import argparse
import os

from scripts.stack.problem import Problem
from scripts.stack.state import State


def find(options: argparse.Namespace) -> tuple[str, str]:
    """URL and key: from the options, else the environment, else what ``scripts/up`` left behind.

    Raises Problem when one is nowhere.
    """
    known = {**State.here().read_env(), **{name: v for name, v in os.environ.items() if v}}
    url = options.url or known.get("GPTQUEUE_URL")
    key = options.key or known.get("GPTQUEUE_API_KEY")
    if not url or not key:
        name, option = ("GPTQUEUE_API_KEY", "--key") if url else ("GPTQUEUE_URL", "--url")
        raise Problem(f"{name} is not set: export it, give {option}, or start scripts/up first.")
    if not key.isascii() or not key.isprintable():
        raise Problem("The API key has characters that no key has.")
    return url, key
