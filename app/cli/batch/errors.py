"""Why a batch ends before its last line."""

from app.cli.problem import Problem


class CannotGoOn(Problem):
    """Nothing further can be submitted now; running the same command again resumes."""


class LineGivenUp(Exception):
    """One line got no usable answer, while the API goes on answering others."""
