"""The one way in which a chore gives up."""


class Problem(Exception):
    """Something the user can act on, as one sentence; printed without a traceback."""
