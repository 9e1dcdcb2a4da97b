"""What a user can put right, told in one sentence."""


class Refused(Exception):
    """The request cannot be carried out; the message says why, in one sentence."""
