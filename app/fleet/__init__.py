"""Which workers are alive, with which model, and why one is not ready."""
