"""The one way in which a command gives up, and its exit codes."""

FINE = 0
FAILED = 1  # what was asked for
UNASKED = 2  # wrong use, or nobody there who could be asked
INTERRUPTED = 130


class Problem(Exception):
    """What went wrong and what to do, as one sentence; printed without a traceback."""

    def __init__(self, sentence: str, code: int = UNASKED) -> None:
        super().__init__(sentence)
        self.code = code
