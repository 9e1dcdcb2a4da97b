"""``scripts/account``: what an operator does with accounts."""
