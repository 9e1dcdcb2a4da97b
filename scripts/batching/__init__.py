"""``scripts/batch``: ``gptqueue batch`` with the address and key of what ``scripts/up`` started."""
