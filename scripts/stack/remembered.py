"""Small things chosen once and kept in a file, so that addresses stay the same between runs."""

import secrets
from pathlib import Path

from scripts.stack import ports


def port(file: Path) -> int:
    """The port noted in this file; a new one when it is taken by now, or nothing is noted."""
    noted = _read(file)
    if noted.isdecimal() and ports.is_free(int(noted)):
        return int(noted)
    chosen = ports.find_free()
    file.write_text(f"{chosen}\n")
    return chosen


def secret(file: Path) -> str:
    """The secret in this file, readable by its owner only; a new one when there is none."""
    noted = _read(file)
    if noted:
        return noted
    chosen = secrets.token_hex(16)
    file.touch(mode=0o600)
    file.write_text(f"{chosen}\n")
    return chosen


def _read(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""
