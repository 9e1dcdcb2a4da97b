"""What goes to standard output: JSON, tables, and texts of models and strangers."""

import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

# No terminal is this wide: in a pipe nothing is folded or cut.
_WIDE = 10_000
_IDS, _ID_WIDTH = {"JOB", "ACCOUNT"}, 36


def say(text: str = "") -> None:
    """A line for people, at once."""
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def print_json(document: Any) -> None:
    """A document: one line, or indented where people read it."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(document, indent=indent, default=str) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns with a heading; one whose name begins with ">" holds figures."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False)
    for name in columns:
        right = name.startswith(">")
        # An id that is cut is of no use to anybody.
        least = _ID_WIDTH if name in _IDS else None
        side: Any = "right" if right else "left"
        table.add_column(name.removeprefix(">"), justify=side, no_wrap=True, min_width=least)
    for row in rows:
        table.add_row(*(_cell(each) for each in row))
    Console(width=None if terminal else _WIDE, markup=False, highlight=False).print(table)


def printable(text: str) -> str:
    """Text without what moves a terminal's cursor or changes its colours or title."""
    if not sys.stdout.isatty():
        return text
    return "".join(each if _is_harmless(each) else "�" for each in text)


def _is_harmless(character: str) -> bool:
    return character in "\n\t" or unicodedata.category(character) != "Cc"


def _cell(value: object) -> Any:
    from rich.text import Text

    return Text("" if value is None else printable(str(value)))
