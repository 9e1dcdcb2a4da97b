"""What a user can put right, told in one sentence."""


class Refused(Exception):
    """The request cannot be carried out; the message says why, in one sentence."""


def reason(error: Exception) -> str:
    """The first line of what a library says, which is seldom a sentence and often a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
