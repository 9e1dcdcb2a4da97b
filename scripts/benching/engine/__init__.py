"""``scripts/bench engine``: how quickly tokens come, beside what else could decode the same model.

``command`` runs it, ``contest`` asks each contestant in turn, ``host`` keeps each in a process of
its own: ``product`` (our engines), ``static`` (transformers' ``generate``), ``continuous``
(transformers' continuous batching) and ``llama`` (llama.cpp's server). ``worker`` measures the
product around the engine, ``gpu`` large models on a CUDA device (with ``theirs``, transformers'
both ways for a model that is loaded once), ``targets`` says what is reached.
"""
