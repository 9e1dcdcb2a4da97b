"""Types of command line arguments, for argparse."""

import argparse
import math


def positive(argument: str) -> float:
    """A number above zero."""
    number = float(argument)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


def count(argument: str) -> int:
    """A whole number, at least 1."""
    number = int(argument)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
