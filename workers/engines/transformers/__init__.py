"""The transformers engine: many jobs decoded together over the stock transformers forward.

``loading`` opens a checkpoint, ``engine`` owns the loop thread, ``batch`` the keys and values of
the rows, ``row`` one request on its way. Prompts, sampling and text are those of all engines.
"""
