"""Amounts in words: whole micro-USD in, exact dollars out."""


def dollars(micros: int) -> str:
    """An amount with all six places, so that columns of them line up."""
    whole, rest = divmod(abs(micros), 1_000_000)
    return f"{'-' if micros < 0 else ''}{whole}.{rest:06}"


def usd(micros: int) -> str:
    """An amount in a sentence."""
    return f"{dollars(micros)} USD"
