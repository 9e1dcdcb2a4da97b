"""``gptqueue top``: queues, workers and engines, as they are now."""
