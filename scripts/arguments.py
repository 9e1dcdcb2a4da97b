"""Types of command line arguments, for argparse."""

import argparse
import math


def positive(argument: str) -> float:
    """A number above zero."""
    try:
        number = float(argument)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {argument!r}")
    return number


def count(argument: str) -> int:
    """A whole number, at least 1."""
    if not (argument.isdecimal() and int(argument)):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {argument!r}")
    return int(argument)
