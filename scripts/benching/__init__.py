"""``scripts/bench``: figures about the product, each beside a baseline of the same run.

One module per subcommand; ``bed`` starts what is measured, ``figures`` shows what came out.
"""
