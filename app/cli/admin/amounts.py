"""Amounts of money as an operator writes them: dollars, exactly, to the millionth."""

import re

import typer

_DOLLARS = re.compile(r"([0-9]{1,13})(?:\.([0-9]{1,6}))?")
MOST_MICROS = 2**63 - 1  # what a balance can hold: PostgreSQL's bigint


def micros(text: str) -> int:
    """The amount in micro-USD; raises BadParameter for what is none, or too large."""
    found = _DOLLARS.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no amount in USD, such as 12.50")
    amount = int(found[1]) * 1_000_000 + int((found[2] or "").ljust(6, "0"))
    if amount > MOST_MICROS:
        raise typer.BadParameter(f"{text} USD is more credit than an account can hold")
    return amount
