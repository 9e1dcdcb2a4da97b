"""The native engine: our own continuous batching over the weights of a transformers checkpoint.

``wire`` is what its two processes say to each other; see docs/engine.md.
"""
