"""Batches: files of many requests, which become jobs of low priority at the batch price.

A batch advances in steps, each one transaction under the lock of its row: its cursor is stored
with what the step made, so that a step that is cut off has done nothing, and none is done twice.
``creating`` begins one, ``steps`` says what is next, and ``validating``, ``feeding``,
``harvesting`` and ``writing`` do it.
"""
