"""The processes that do the work: generation, webhook delivery and the sweeps."""
