"""The one way in which a chore gives up: that of the command ``gptqueue``."""

from app.cli.problem import Problem

__all__ = ["Problem"]
