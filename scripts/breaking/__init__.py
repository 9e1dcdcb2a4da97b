"""``scripts/chaos``: the whole stack under load, its parts killed at random, then an audit.

``stage`` starts what is broken, ``storm`` breaks it by the deck of ``faults``, ``crew`` submits
what ``plans`` drew and writes down in ``answers`` what it was told; ``audit`` compares that with
the database and with what the ``receiver`` got, and ``verdict`` shows it.
"""
