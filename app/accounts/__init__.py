"""Who owns jobs, and the keys they prove it with."""
